"""The gate's probe: arithmetic, saving, and files that do not fit."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from aligner_integrations.backends.local.probe import GateProbe, token_features  # noqa: E402
from aligner_integrations.errors import ModelLoadError  # noqa: E402

HIDDEN = 3


@pytest.fixture
def probe():
    generator = torch.Generator().manual_seed(0)
    mean, scale, weight = torch.rand(3, 2 * HIDDEN + 2, generator=generator) + 0.5
    return GateProbe(4, mean, scale, weight, torch.tensor(0.25))


def test_features():
    before, after = torch.ones(2, HIDDEN), torch.full((2, HIDDEN), 2.0)
    features = token_features(before, after, torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0]))
    log2 = torch.log(torch.tensor(2.0)).item()
    assert features.tolist() == [pytest.approx([1, 1, 1, 2, 2, 2, 0, log2]), pytest.approx([1, 1, 1, 2, 2, 2, log2, 0])]


def test_marks(probe):
    features = torch.stack([probe.mean, probe.mean + probe.scale])
    assert probe.marks(features).tolist() == pytest.approx([0.25, 0.25 + probe.weight.sum().item()])


def test_round_trip(probe, tmp_path):
    probe.save(tmp_path / "gate.safetensors")
    loaded = GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN)
    for field in dataclasses.fields(GateProbe):
        assert torch.equal(*(torch.as_tensor(getattr(p, field.name)) for p in (loaded, probe)))


def test_a_probe_of_another_model(probe, tmp_path):
    probe.save(tmp_path / "gate.safetensors")
    with pytest.raises(ModelLoadError, match="does not fit a model of hidden size 4"):
        GateProbe.load(tmp_path / "gate.safetensors", 4, HIDDEN + 1)


def test_a_corrupt_or_missing_file(probe, tmp_path):
    path = tmp_path / "gate.safetensors"
    with pytest.raises(ModelLoadError, match="cannot be read"):
        GateProbe.load(path, 4, HIDDEN)
    probe.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        GateProbe.load(path, 4, HIDDEN)
