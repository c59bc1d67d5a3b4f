"""The local backend on tiny models: what it writes, which texts it refuses, and how it behaves among tasks."""

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter
from concurrent.futures import Future

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Request
from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.generation import generate
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.errors import (
    AnswerTooLongError,
    BackendError,
    InvalidTextError,
    TruncatedCorrectionError,
)
from tests.forks import forked
from tests.integration import tiny
from tests.integration.tiny import request

pytestmark = pytest.mark.integration


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
    behind = Future()
    weights.worker.submit(lambda: behind.set_result(None))
    await asyncio.wrap_future(behind)
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
async def test_forked_children_correct_for_themselves(sure_model):
    """As under gunicorn --preload: the parent has corrected, streamed, and is correcting while it forks."""
    aligner = Aligner(str(sure_model), template=tiny.TEMPLATE, gate=False)
    want = aligner.correct("q", "tea is fine").text
    assert "".join([piece async for piece in aligner.astream("q", "tea is fine")]) == want

    async def astream():
        return "".join([piece async for piece in aligner.astream("q", "tea is fine")])

    ways = [
        lambda: aligner.correct("q", "tea is fine").text,
        lambda: "".join(aligner.stream("q", "tea is fine")),
        lambda: asyncio.run(astream()),
        lambda: asyncio.run(aligner.acorrect("q", "tea is fine")).text,
    ]
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            aligner.correct("q", "tea is fine")

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for way in ways:
            assert await asyncio.to_thread(forked, lambda way=way: way() == want)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_what_is_not_loaded_has_nothing_to_forget(tmp_path):
    """A corpus whose corrections are all kept already needs no weights."""
    LocalBackend(tmp_path / "not there").forget()
