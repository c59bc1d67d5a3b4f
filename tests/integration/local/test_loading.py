"""Loading tiny models: adapters, what is broken or unsafe, and one load for all threads."""

import json
import pickle
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_integrations import Aligner
from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.backends.local import loading
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.errors import ModelError, ModelLoadError, ModelNotFoundError, UnsafeWeightsError
from aligner_integrations.models import AlignerConfig
from tests.integration import tiny
from tests.integration.tiny import request

pytestmark = pytest.mark.integration


def test_a_merged_adapter_is_the_adapter(adapter, random_model):
    from peft import PeftModel

    ids = torch.tensor(
        [
            encode_prompt(
                AutoTokenizer.from_pretrained(random_model), request("Why 5?", "Because of 185. " * 6 + "\u00e9").prompt
            )
        ]
    )
    base = AutoModelForCausalLM.from_pretrained(random_model)
    with torch.inference_mode():
        alone = base(ids).logits
        unmerged = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
        merged = LocalBackend(adapter, dtype="float32", device="cpu").model(ids).logits
    assert not torch.allclose(alone, unmerged, atol=0.1), "an adapter that changes nothing shows nothing"
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=1e-4)
    assert Aligner(adapter).template == tiny.TEMPLATE


def refuse(folder: Path, error: type[ModelError], words: str) -> None:
    """Neither loading nor correcting goes through, the sentence is short, and nothing broken is kept."""
    for attempt in (Aligner(folder).load, lambda: Aligner(folder).correct("a", "b")):
        with pytest.raises(error, match=words) as caught:
            attempt()
        assert type(caught.value) is error
        assert len(str(caught.value)) < 700


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # PEFT says so and goes on
@pytest.mark.parametrize("shape", [{"hidden": 48}, {"layers": 1}])
def test_an_adapter_of_another_base_is_refused(tmp_path, adapter, shape):
    base = tiny.write_model(tmp_path / "base", **shape)
    shutil.copytree(adapter, tmp_path / "adapter")
    AlignerConfig(tiny.TEMPLATE, str(base)).save(tmp_path / "adapter")
    refuse(tmp_path / "adapter", ModelLoadError, "adapter.*base")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_whose_names_mean_nothing_is_refused(tmp_path, adapter):
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "query"): tensor for name, tensor in load_file(path).items()}, path)
    refuse(tmp_path / "adapter", ModelLoadError, "different names")


def test_an_adapter_without_its_weights_is_refused(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    refuse(tmp_path / "adapter", ModelNotFoundError, "no safetensors weights")


def test_an_adapter_whose_base_is_gone_is_refused(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "adapter")
    AlignerConfig(tiny.TEMPLATE, str(tmp_path / "gone")).save(tmp_path / "adapter")
    refuse(tmp_path / "adapter", ModelNotFoundError, "gone")


def break_model(folder: Path, fault: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    if fault == "cut":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif fault == "empty":
        weights.write_bytes(b"")
    elif fault == "noise":
        weights.write_bytes(b"\xff" * 5000)
    elif fault == "incomplete":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif fault == "shape":
        tensors = load_file(weights)
        tensors["model.norm.weight"] = torch.ones(5)
        save_file(tensors, weights, {"format": "pt"})
    elif fault == "config":
        (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    elif fault == "tokenizer":
        (folder / "tokenizer.json").write_text('{"model": 5}')


@pytest.mark.parametrize("fault", ["cut", "empty", "noise", "incomplete", "shape", "config", "tokenizer"])
@pytest.mark.filterwarnings("ignore")  # what others say about broken files is not ours
def test_a_broken_checkpoint_is_a_sentence(tmp_path, sure_model, fault):
    shutil.copytree(sure_model, tmp_path / "model")
    break_model(tmp_path / "model", fault)
    refuse(tmp_path / "model", ModelLoadError, "tokenizer" if fault == "tokenizer" else "weights")


def test_a_cut_adapter_is_a_sentence(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refuse(tmp_path / "adapter", ModelLoadError, "adapter")


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("place", ["model", "base", "adapter"])
def test_pickles_are_never_opened(tmp_path, sure_model, adapter, place):
    trap = pickle.dumps(Trap(tmp_path / "trapped"))
    folder = tmp_path / "model"
    shutil.copytree(adapter if place == "adapter" else sure_model, folder)
    name = "adapter_model" if place == "adapter" else "model"
    (folder / f"{name}.safetensors").unlink()
    (folder / f"{'adapter_model' if place == 'adapter' else 'pytorch_model'}.bin").write_bytes(trap)
    asked = folder
    if place == "base":
        asked = tmp_path / "adapter"
        shutil.copytree(adapter, asked)
        AlignerConfig(tiny.TEMPLATE, str(folder)).save(asked)
    refuse(asked, UnsafeWeightsError, "pickled")
    assert not (tmp_path / "trapped").exists()
    pickle.loads(trap)  # noqa: S301 - the trap does work
    assert (tmp_path / "trapped").exists()


def test_code_in_a_folder_is_never_run(tmp_path, sure_model):
    folder = tmp_path / "model"
    shutil.copytree(sure_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_trap.Trap"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_trap.py").write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')\nclass Trap: pass\n")
    refuse(folder, UnsafeWeightsError, "auto_map")
    assert not (tmp_path / "trapped").exists()


def test_dtypes_go_by_name(sure_model):
    half = LocalBackend(sure_model, dtype="bfloat16", device="cpu")
    assert half.model.dtype == torch.bfloat16
    assert half.complete([request("a", "b")])[0].text.strip() == tiny.SAYS
    assert LocalBackend(sure_model, device="cpu").model.dtype == torch.float32
    for name in ("float33", "Tensor"):
        with pytest.raises(ModelLoadError, match=name):
            LocalBackend(sure_model, dtype=name).load()


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="with bitsandbytes it would load")
def test_a_quantisation_reaches_transformers(sure_model):
    quantization = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(ModelLoadError, match="bitsandbytes|accelerate"):
        LocalBackend(sure_model, quantization_config=quantization).load()


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """Counts loads of weights, and makes them slow enough for a race."""
    counted: Counter[str] = Counter()
    load = loading._load

    def slowly(files, *rest):
        counted[files.name] += 1
        time.sleep(0.3)
        return load(files, *rest)

    monkeypatch.setattr(loading, "_load", slowly)
    return counted


def at_once(count: int, work):
    """Run `work(i)` on as many threads, all started together."""
    gate = threading.Barrier(count)

    def wait_and_work(i: int):
        gate.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_work, range(count)))


def test_fifty_threads_share_one_aligner_and_one_load(tmp_path, random_model, loads):
    expected = LocalBackend(random_model, device="cpu").complete([request("Why?", f"A {i}.", None) for i in range(150)])
    ended = [i for i, c in enumerate(expected) if c.finish_reason == "stop" and c.text.strip()]
    assert len({expected[i].text for i in ended}) > 25
    shutil.copytree(random_model, tmp_path / "model")
    loads.clear()
    aligner = Aligner(tmp_path / "model", max_new_tokens=400)
    wanted = [ended[i % len(ended)] for i in range(50)]
    corrections = at_once(50, lambda i: aligner.correct("Why?", f"A {wanted[i]}."))
    assert [c.text for c in corrections] == [expected[i].text.strip() for i in wanted]
    assert loads == {str(tmp_path / "model"): 1}


def test_ten_aligners_of_one_folder_share_one_load(tmp_path, sure_model, loads, monkeypatch):
    shutil.copytree(sure_model, tmp_path / "model")
    monkeypatch.setenv("ALIGNER_MODEL", str(tmp_path / "model"))
    aligners = [Aligner() for _ in range(10)]
    assert loads == {}, "weights are loaded at the first correction"
    corrections = at_once(10, lambda i: aligners[i].correct(str(i), "Wrong."))
    assert [(c.question, c.text) for c in corrections] == [(str(i), tiny.SAYS) for i in range(10)]
    assert loads == {str(tmp_path / "model"): 1}
    assert len({id(a.backend.model) for a in aligners}) == 1
