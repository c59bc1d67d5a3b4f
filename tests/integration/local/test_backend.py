"""The local backend on tiny models: what it writes, what it refuses, and how it behaves among threads and tasks."""

import asyncio
import contextlib
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
from aligner_integrations.backends.base import Request
from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.backends.local import loading
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.generation import generate
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.probe import GateProbe
from aligner_integrations.errors import (
    AnswerTooLongError,
    BackendError,
    InvalidTextError,
    ModelError,
    ModelLoadError,
    ModelNotFoundError,
    TruncatedCorrectionError,
    UnsafeWeightsError,
)
from aligner_integrations.models import AlignerConfig
from tests.integration import tiny

pytestmark = pytest.mark.integration


def request(question: str, answer: str, limit: int | None = 24) -> Request:
    prompt = tiny.TEMPLATE.render(question, answer)
    return Request(question, answer, prompt, tiny.TEMPLATE.completion_prefix, limit)


# Of very different lengths, so that a batch is padded; among them are texts of several bytes a character.
REQUESTS = [
    request(f"Why {i}?", f"Because of {i * 37}. " * (1 + i % 9) + "\u00e9\u8336\u2728"[: i % 4]) for i in range(60)
]


def streamed(backend: LocalBackend, wanted: Request) -> tuple[str, str]:
    """Text and finish reason of a stream."""
    pieces: list[str] = []
    try:
        for piece in backend.stream(wanted):
            pieces.append(piece)
    except TruncatedCorrectionError:
        return "".join(pieces), "length"
    return "".join(pieces), "stop"


def smallest_lead(weights: Weights, prompt: list[int], limit: int) -> float:
    """By how little the best logit leads the second best, at its closest, while a prompt is continued."""
    ((ids, _),) = generate(weights, [prompt], [limit], [threading.Event()], {})
    with torch.inference_mode():
        logits = weights.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :]
    best = logits.topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


# What it writes -------------------------------------------------------------------------------------------------------


def test_batched_single_and_streamed_texts_are_the_same(random_model):
    backend = LocalBackend(random_model, dtype="float32", device="cpu")
    batched = backend.complete(REQUESTS)
    assert {c.finish_reason for c in batched} == {"stop", "length"}
    assert len({c.text for c in batched}) > 50, "the texts hardly depend on the prompts, so this shows nothing"
    for wanted, completion in zip(REQUESTS, batched, strict=True):
        (single,) = backend.complete([wanted])
        # One at a time and streamed, the numbers are the same to the bit.
        assert streamed(backend, wanted) == (single.text, single.finish_reason)
        assert single.usage.prompt_tokens == len(backend.tokenizer(wanted.prompt)["input_ids"])
        if completion != single:
            prompt = encode_prompt(backend.tokenizer, wanted.prompt)
            assert smallest_lead(backend.weights, prompt, 24) < 1e-4


def test_the_texts_are_those_of_plain_generate(random_model):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(random_model), AutoTokenizer.from_pretrained(random_model)
    for wanted, completion in zip(REQUESTS[:8], LocalBackend(random_model).complete(REQUESTS[:8]), strict=True):
        inputs = tokenizer(wanted.prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        new = output[0, inputs["input_ids"].shape[1] :]
        assert completion.text == tokenizer.decode(new, skip_special_tokens=True)


def test_an_error_stays_in_its_place(sure_model):
    long = request("Why?", "word " * 300)
    results = LocalBackend(sure_model).complete(
        [request("a", "b"), long, request("c", "\ud800"), request("d", "e " * 90)]
    )
    assert [type(r).__name__ for r in results] == ["Completion", "AnswerTooLongError", "InvalidTextError", "Completion"]
    assert results[0].text.strip() == results[3].text.strip() == tiny.SAYS


def test_ten_megabytes_are_refused_before_they_are_tokenised(sure_model, monkeypatch):
    aligner = Aligner(sure_model)
    tokenizer = type(aligner.backend.tokenizer)
    with monkeypatch.context() as patched, pytest.raises(AnswerTooLongError, match="10,000,0"):
        patched.setattr(tokenizer, "__call__", lambda *_, **__: pytest.fail("it was tokenised"))
        aligner.correct("Why?", "x" * 10_000_000)
    kept = Aligner(sure_model, on_overflow="keep").correct("Why?", "word " * 300)
    assert (kept.outcome, kept.text) == ("failed", "word " * 300)


def test_the_token_limit_is_never_passed_off_as_an_end(sure_model):
    words = len(AutoTokenizer.from_pretrained(sure_model).encode(" " + tiny.SAYS))
    assert Aligner(sure_model, max_new_tokens=words + 1).correct("a", "b").text == tiny.SAYS
    short = Aligner(sure_model, max_new_tokens=words)
    with pytest.raises(TruncatedCorrectionError):
        short.correct("a", "b")
    (result,) = short.backend.complete([request("a", "b", words)])
    assert (result.finish_reason, result.text.strip()) == ("length", tiny.SAYS)
    pieces: list[str] = []
    with pytest.raises(TruncatedCorrectionError):
        pieces.extend(short.stream("a", "b"))
    assert short.correct_many([("a", "b")] * 2, return_exceptions=True)[1].retryable is False


def test_a_batch_never_outgrows_the_window_of_learnt_positions(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    tokenizer = tiny.write_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 200, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)).save_pretrained(folder)
    long, short = request("Why?", "word " * 21, None), request("Why?", "word", None)
    backend = LocalBackend(folder)
    together = backend.complete([long, short])
    assert [type(r).__name__ for r in together] == ["Completion", "Completion"], together
    assert together[0].usage.prompt_tokens + together[1].usage.completion_tokens > 200, "they would fit together"
    assert together == [backend.complete([long])[0], backend.complete([short])[0]]


def test_what_generate_refuses_is_an_error_of_ours(sure_model):
    backend = LocalBackend(sure_model, generation={"num_beams": 0})
    (result,) = backend.complete([request("a", "b")])
    assert isinstance(result, BackendError)
    with pytest.raises(BackendError):
        list(backend.stream(request("a", "b")))


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True])
def test_special_tokens_in_a_text_are_text(tmp_path, bos):
    model = tiny.write_model(tmp_path / "model", says=tiny.SAYS, bos=bos)
    aligner = Aligner(model)
    tokenizer = aligner.backend.tokenizer
    special = set(tokenizer.all_special_ids)
    assert len(special) == 3
    expected = [tokenizer.bos_token_id] if bos else []
    for text in ("</s>", "a <|im_end|> b<s>", "<s></s><|im_end|>" * 5):
        ids = encode_prompt(tokenizer, tiny.TEMPLATE.render(text, text))
        assert [i for i in ids if i in special] == expected
        assert tokenizer.decode(ids[len(expected) :]) == tiny.TEMPLATE.render(text, text)
        assert "".join(t.text for t in aligner.score(text, text).tokens) == text
    for question, answer in (("Why?", "So."), ("\u8336 \u2728", " two\n\nlines\t"), ("{answer}", "{question} | ##")):
        assert (
            encode_prompt(tokenizer, tiny.TEMPLATE.render(question, answer))
            == tokenizer(tiny.TEMPLATE.render(question, answer))["input_ids"]
        )


def test_a_lone_surrogate_is_a_typed_error(sure_model):
    aligner = Aligner(sure_model)
    for question, answer in (("\ud800", "fine"), ("fine", "a\udfffb")):
        with pytest.raises(InvalidTextError):
            aligner.correct(question, answer)
        with pytest.raises(InvalidTextError):
            list(aligner.stream(question, answer))
        with pytest.raises(InvalidTextError):
            aligner.score(question, answer)
        with pytest.raises(InvalidTextError):
            list(aligner.backend.stream(request(question, answer)))


# Scores ---------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_plain_transformers(random_model):
    backend = LocalBackend(random_model, dtype="float32", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(random_model)
    requests = [request("Why?", a) for a in ("It is a drink.", "  \u8336, that is tea.\n", "no", "word " * 60)]
    for wanted, score in zip(requests, backend.score(requests), strict=True):
        core = wanted.answer.strip()
        prompt = backend.tokenizer(wanted.prompt)["input_ids"]
        answer = [*backend.tokenizer(" " + core, add_special_tokens=False)["input_ids"], backend.tokenizer.eos_token_id]
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0]
        gaps = logprobs.max(1).values - own
        assert [t.logprob for t in score.tokens] == pytest.approx(own.tolist(), abs=1e-4)
        assert [t.gap for t in score.tokens] == pytest.approx(gaps.tolist(), abs=1e-4)
        assert score.total == pytest.approx(own.sum().item(), abs=1e-3)
        assert score.mean == pytest.approx(own.mean().item(), abs=1e-4)
        assert (score.minimum, score.max_gap) == pytest.approx((own.min().item(), gaps.max().item()), abs=1e-4)
        assert score.max_gap > 0
        assert score.gate is None

        *words, end = score.tokens
        covered = {i for t in words for i in range(t.start, t.end)}
        start = wanted.answer.index(core)
        # The first token may begin with the template's own space; else every character belongs to a token.
        assert covered == set(range(start, start + len(core)))
        assert all(t.text == wanted.answer[t.start : t.end] for t in words)
        assert (end.text, end.start, end.end) == ("", start + len(core), start + len(core))


def test_no_gap_means_that_greedy_decoding_repeats_the_answer(sure_model):
    aligner = Aligner(sure_model)
    for answer in (tiny.SAYS, f" {tiny.SAYS}\n", tiny.SAYS[:-1], tiny.SAYS + " So.", "The kettle is cold.", tiny.OTHER):
        correction = aligner.correct("Is it hot?", answer)
        assert (aligner.score("Is it hot?", answer).max_gap == 0) is (correction.outcome == "kept"), answer
        assert correction.text.strip() == tiny.SAYS


def with_probe(folder: Path, base: Path, *, layer: int = 1, width: int = 66, threshold: float = 0.5) -> GateProbe:
    """Copy a model and put a random probe beside its weights."""
    shutil.copytree(base, folder)
    AlignerConfig(tiny.TEMPLATE, gate=threshold, gate_layer=layer).save(folder)
    generator = torch.Generator().manual_seed(3)
    mean, scale, weight = (torch.rand(width, generator=generator) + 0.1 for _ in range(3))
    probe = GateProbe(layer, mean, scale, weight - 0.6, torch.tensor(0.25))
    probe.save(folder / "gate.safetensors")
    return probe


def test_the_probe_beside_the_weights_marks_tokens(tmp_path, random_model):
    probe = with_probe(tmp_path / "model", random_model)
    score = Aligner(tmp_path / "model").score("Why?", "It is a drink.")

    model, tokenizer = AutoModelForCausalLM.from_pretrained(random_model), AutoTokenizer.from_pretrained(random_model)
    prompt = tokenizer(tiny.TEMPLATE.render("Why?", "It is a drink."))["input_ids"]
    answer = [*tokenizer(" It is a drink.")["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        output = model(torch.tensor([prompt + answer]), output_hidden_states=True)
    states, logprobs = output.hidden_states[1][0], output.logits[0].log_softmax(-1)
    marks = []
    for i, token in enumerate(answer, len(prompt)):
        own = logprobs[i - 1, token].item()
        numbers = torch.tensor([logprobs[i - 1].max().item() - own, -own]).log1p()
        features = torch.cat([states[i - 1], states[i], numbers])
        marks.append((((features - probe.mean) / probe.scale) * probe.weight).sum().item() + 0.25)
    assert [t.mark for t in score.tokens] == pytest.approx(marks, abs=1e-3)
    assert score.gate == pytest.approx(max(marks), abs=1e-3)
    assert len(score.marked(max(marks) - 1e-2)) >= 1
    assert score.marked(max(marks) + 1e-2) == ()

    # The threshold of the configuration decides what is kept.
    AlignerConfig(tiny.TEMPLATE, gate=max(marks) + 1, gate_layer=1).save(tmp_path / "model")
    assert Aligner(tmp_path / "model").correct("Why?", "It is a drink.").reason == "gate"
    AlignerConfig(tiny.TEMPLATE, gate=max(marks) - 1, gate_layer=1).save(tmp_path / "model")
    assert Aligner(tmp_path / "model", on_error="block").correct("Why?", "It is a drink.").reason != "gate"


@pytest.mark.parametrize("fault", ["cut", "narrow", "missing", "layer"])
def test_a_gate_that_does_not_fit_is_refused(tmp_path, sure_model, fault):
    folder = tmp_path / "model"
    with_probe(folder, sure_model, width=64 if fault == "narrow" else 66, layer=9 if fault == "layer" else 1)
    gate = folder / "gate.safetensors"
    if fault == "cut":
        gate.write_bytes(gate.read_bytes()[:-40])
    if fault == "missing":
        gate.unlink()
    with pytest.raises(ModelLoadError, match="gate"):
        Aligner(folder).load()


# Loading --------------------------------------------------------------------------------------------------------------


def test_a_merged_adapter_is_the_adapter(adapter, random_model):
    from peft import PeftModel

    ids = torch.tensor([encode_prompt(AutoTokenizer.from_pretrained(random_model), REQUESTS[5].prompt)])
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


# Tasks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """(aligner, steps): a model that would write for minutes, and how many forward passes it has made."""
    folder = tiny.write_model(tmp_path_factory.mktemp("endless") / "model", says=tiny.SAYS, loops=True, window=40_000)
    # Without drafts: what repeats itself would be over in no time.
    aligner = Aligner(backend=LocalBackend(folder, drafts=False), max_new_tokens=30_000)
    steps: Counter[str] = Counter()

    def slow(*_):
        steps["made"] += 1
        time.sleep(0.004)

    aligner.backend.model.register_forward_pre_hook(slow)
    return aligner, steps


async def until(condition) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


async def stands_still(aligner: Aligner, steps: Counter) -> None:
    """What was given up makes no pass but the one it was about to, and the model's thread and lock are free for others."""
    weights, made = aligner.backend.weights, steps["made"]
    await asyncio.wrap_future(weights.worker.submit(lambda: None))
    await asyncio.to_thread(weights.lock.acquire)
    weights.lock.release()
    await asyncio.sleep(0.1)
    assert steps["made"] - made <= 1


async def test_the_event_loop_goes_on(endless):
    """Each pass waits until the event loop has done something for it; a blocked one never would."""
    aligner, _ = endless
    short = Aligner(backend=aligner.backend, max_new_tokens=100, on_error="keep")
    loop, answered = asyncio.get_running_loop(), []

    def ask(*_):
        done = threading.Event()
        loop.call_soon_threadsafe(done.set)
        assert done.wait(60), "the event loop is blocked"
        answered.append(True)

    hook = aligner.backend.model.register_forward_pre_hook(ask)
    try:
        await short.acorrect("a", "b")
    finally:
        hook.remove()
    assert len(answered) >= 100


async def test_cancelling_a_correction_ends_the_generation(endless):
    aligner, steps = endless
    made = steps["made"]
    task = asyncio.create_task(aligner.acorrect("a", "b"))
    await until(lambda: steps["made"] > made + 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stands_still(aligner, steps)


async def test_cancelling_a_batch_starts_no_further_part_of_it(endless):
    aligner, steps = endless
    backend = LocalBackend(aligner.backend.name, batch_tokens=1, drafts=False)
    assert backend.weights is aligner.backend.weights
    made = steps["made"]
    task = asyncio.create_task(backend.acomplete([request("a", "b", 30_000)] * 200))
    await until(lambda: steps["made"] > made + 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    before = steps["made"]
    await stands_still(aligner, steps)
    assert steps["made"] - before < 20, "each of the waiting parts made a step"


async def test_closing_an_asynchronous_stream_ends_the_generation(endless):
    aligner, steps = endless
    stream = aligner.astream("a", "b")
    async for piece in stream:
        assert piece.strip()
        break
    await stream.aclose()
    await stands_still(aligner, steps)
    assert stream.correction is None


async def test_cancelling_the_reader_of_a_stream_ends_the_generation(endless):
    aligner, steps = endless
    pieces = []

    async def read():
        async for piece in aligner.astream("a", "b"):
            pieces.append(piece)

    task = asyncio.create_task(read())
    await until(lambda: len(pieces) > 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stands_still(aligner, steps)


async def test_closing_a_stream_ends_the_generation(endless):
    aligner, steps = endless
    stream = aligner.stream("a", "b")
    started = [next(stream) for _ in range(5)]
    stream.close()
    assert "".join(started).startswith("The kettle is")
    await stands_still(aligner, steps)


async def test_asynchronous_results_are_the_synchronous_ones(random_model):
    aligner = Aligner(random_model, on_error="block")
    pairs = [("Why?", f"B {i}.") for i in range(20)]
    many = aligner.correct_many(pairs)
    assert [c.text for c in await aligner.acorrect_many(pairs)] == [c.text for c in many]
    singles = await asyncio.gather(*(aligner.acorrect(q, a) for q, a in pairs))
    assert [c.text for c in singles] == [aligner.correct(q, a).text for q, a in pairs]
    ended = next(c for c in many if c.outcome == "corrected")
    stream = aligner.astream(ended.question, ended.answer)
    assert "".join([piece async for piece in stream]) == ended.text == stream.correction.text
    assert await aligner.ascore("Why?", "So.") == aligner.score("Why?", "So.")
