"""In which numbers a machine computes fast."""

import pytest

torch = pytest.importorskip("torch")

from aligner_integrations.backends.local.devices import quick_dtype  # noqa: E402


@pytest.mark.parametrize(
    ("cuda", "onednn", "bfloat16", "expected"),
    [
        (True, False, False, torch.bfloat16),
        (False, True, True, torch.bfloat16),
        (False, True, False, torch.float32),
        (False, False, True, torch.float32),
    ],
)
def test_bfloat16_only_where_the_hardware_has_it(monkeypatch, cuda, onednn, bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bfloat16)
    assert quick_dtype() == expected
