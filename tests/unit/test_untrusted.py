"""Folders that would hang or fill the memory are refused before anything of them is loaded."""

import json

import pytest

from aligner_integrations.errors import ModelLoadError, UnsafeWeightsError
from aligner_integrations.models import locate
from aligner_integrations.untrusted import check_adapter


@pytest.mark.parametrize(
    "modules",
    [
        "all-linear",
        ["q_proj", "v_proj"],
        r".*\.(q_proj|k_proj|v_proj|o_proj)",
        r"^(?!.*visual).*(?:gate_proj|up_proj|down_proj)$",
        r"model\.layers\.\d+\.self_attn\.(q|v)_proj",
        None,
    ],
)
def test_ordinary_adapters(modules):
    check_adapter("a", {"target_modules": modules, "r": 16, "rank_pattern": {"q_proj": 8}})


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "(a+)+$"},
        {"target_modules": "((x*)*y)*"},
        {"target_modules": "(?:(?:.*a)*b)+?"},
        {"target_modules": "(.+.+)+"},
        {"target_modules": "a" * 100_000},
        {"target_modules": "(" * 5_000},
        {"target_modules": "[broken"},
        {"exclude_modules": "(a|aa+)*"},
        {"rank_pattern": {"(a+)+$": 8}},
        {"r": 10**9},
        {"r": 0},
        {"rank_pattern": {"q_proj": 10**9}},
    ],
)
def test_adapters_that_would_hang(config):
    with pytest.raises(UnsafeWeightsError):
        check_adapter("a", config)


def model(folder, *, layers, tensors=20, head=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    names = {f"layer.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(tensors)}
    content = json.dumps(names).encode()
    (folder / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content if head is None else head)
    return folder


def test_a_model_with_more_layers_than_tensors(tmp_path):
    assert locate(str(model(tmp_path / "fine", layers=2))).base == tmp_path / "fine"
    with pytest.raises(ModelLoadError, match="1,000,000 layers.*20 tensors"):
        locate(str(model(tmp_path / "huge", layers=10**6)))


@pytest.mark.parametrize("head", [b"", b"\xff" * 8, b"\x05" + bytes(7) + b"[[[[[", b"\x02" + bytes(7) + b"12"])
def test_a_weight_file_without_a_head(tmp_path, head):
    with pytest.raises(ModelLoadError, match="damaged"):
        locate(str(model(tmp_path / "m", layers=2, head=head)))


def test_an_adapter_is_looked_at_before_its_base_is_fetched(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    config = {"base_model_name_or_path": "nobody/nothing", "target_modules": "(a+)+$"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeWeightsError, match="target_modules"):
        locate(str(folder))
