"""The aligner reads an answer while the upstream still writes it: the same text as without, and nothing is left behind."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from llama_index.core.base.response.schema import StreamingResponse

from aligner_integrations import Aligner, AlignerRunnable
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.errors import TruncatedCorrectionError
from aligner_integrations.llama_index import align_response
from tests.integration import tiny

pytestmark = pytest.mark.integration

QUESTION = "What is tea?"
WORDS = [
    f"{word} "
    for word in ["It", "is", "a", "drink", "and", "the", "kettle", "is", "hot", "so", "wait", "thanks", "fine"]
] * 5
ANSWER = "".join(WORDS).strip()


@pytest.fixture
def aligner(random_model, monkeypatch):
    """An aligner whose model has read nothing yet."""
    backend = LocalBackend(str(random_model), device="cpu")
    # How much is read at once follows from what a token was measured to cost, and on a busy machine that may be anything.
    monkeypatch.setattr(backend.weights, "drafts", dataclasses.replace(backend.weights.drafts, token_cost=1 / 16))
    backend.weights.prefixes.clear()
    return Aligner(backend=backend, gate=False, max_new_tokens=20, on_error="keep")


def without(aligner):
    """The same without reading ahead."""
    name = aligner.backend.name
    return Aligner(
        backend=LocalBackend(name, device="cpu", overlap=False), gate=False, max_new_tokens=20, on_error="keep"
    )


def tokens_read(aligner):
    """How many tokens of the prompt the model has read."""
    tokens = aligner.backend.tokenizer.encode(tiny.TEMPLATE.render(QUESTION, ANSWER))
    return aligner.backend.weights.prefixes.find(tokens)[1]


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 seconds"
        time.sleep(0.01)


def test_an_answer_is_read_while_it_comes(aligner):
    wanted = without(aligner).correct(QUESTION, ANSWER).text
    aligner.backend.weights.prefixes.clear()
    with aligner.prefill(QUESTION) as prefill:
        for word in WORDS[:-1]:
            prefill.feed(word)
        wait_for(lambda: tokens_read(aligner) > 40)
        prefill.feed(WORDS[-1].strip())
        assert aligner.correct(QUESTION, ANSWER).text == wanted


def test_an_abandoned_answer_is_forgotten(aligner):
    with aligner.prefill(QUESTION) as prefill:
        for word in WORDS:
            prefill.feed(word)
        wait_for(lambda: tokens_read(aligner) > 40)
    assert len(aligner.backend.weights.prefixes) == 0


def test_another_question_than_the_one_read_gives_its_own_text(aligner):
    wanted = without(aligner).correct("How are you?", ANSWER).text
    with aligner.prefill(QUESTION) as prefill:
        for word in WORDS:
            prefill.feed(word)
        wait_for(lambda: tokens_read(aligner) > 40)
        assert aligner.correct("How are you?", ANSWER).text == wanted


def test_what_is_switched_off_reads_nothing(aligner):
    off = without(aligner)
    with off.prefill(QUESTION) as prefill:
        for word in WORDS:
            prefill.feed(word)
        time.sleep(0.2)
        assert len(off.backend.weights.prefixes) == 0


class Upstream(BaseChatModel):
    """Streams the words that `words` yields."""

    words: Callable[[], AsyncIterator[str]]

    @property
    def _llm_type(self):
        return "upstream"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        raise NotImplementedError

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        async for word in self.words():
            yield ChatGenerationChunk(message=AIMessageChunk(word))


def chain_of(aligner, seen=None):
    """The upstream pauses at its last word until the aligner has read what was there, if `seen`."""

    async def words():
        for word in WORDS[:-1]:
            yield word
        if seen is not None:
            await asyncio.to_thread(wait_for, lambda: tokens_read(aligner) > 40)
            seen.append(tokens_read(aligner))
        yield WORDS[-1].strip()

    return Upstream(words=words) | AlignerRunnable(aligner)


async def test_a_chain(aligner):
    seen = []

    async def shown(chain):
        chunks = []
        with pytest.raises(TruncatedCorrectionError):  # random weights hardly ever end
            async for chunk in chain.astream(QUESTION):
                chunks.append(chunk.text)
        return "".join(chunks)

    wanted = await shown(chain_of(without(aligner)))
    aligner.backend.weights.prefixes.clear()
    assert await shown(chain_of(aligner, seen)) == wanted != "" and seen[0] > 40


async def test_a_chain_whose_reader_goes_away(aligner):
    async def endless():
        while True:
            for word in WORDS:
                yield word
                await asyncio.sleep(0.001)

    chain = Upstream(words=endless) | AlignerRunnable(aligner)

    async def read():
        async with aclosing(chain.astream(QUESTION)) as chunks:
            async for _ in chunks:
                pass

    task = asyncio.create_task(read())
    await asyncio.to_thread(wait_for, lambda: tokens_read(aligner) > 40)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_for, lambda: len(aligner.backend.weights.prefixes) == 0)


def test_a_streaming_response_of_llama_index(aligner):
    seen = []

    def pieces(reader):
        yield from WORDS[:-1]
        if reader is not None:
            wait_for(lambda: tokens_read(reader) > 40)
            seen.append(True)
        yield WORDS[-1].strip()

    def shown(response):
        texts = []
        with pytest.raises(TruncatedCorrectionError):
            texts.extend(response.response_gen)
        return "".join(texts)

    wanted = shown(align_response(without(aligner), QUESTION, StreamingResponse(pieces(None))))
    aligner.backend.weights.prefixes.clear()
    assert shown(align_response(aligner, QUESTION, StreamingResponse(pieces(aligner)))) == wanted != "" and seen
