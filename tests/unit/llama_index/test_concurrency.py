"""Many questions at once: none is mixed up with another, and the event loop goes on."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response
from llama_index.core.memory import ChatMemoryBuffer

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.llama_index import AlignerChatEngine, AlignerQueryEngine, AlignerSynthesizer
from tests.unit.llama_index.support import (
    DRAFT,
    TEMPLATE,
    Engine,
    LoopWatch,
    ScriptedLLM,
    make_aligner,
    make_index,
    question_in,
    read,
    response_of,
    work,
)


def _for_question(prompt: str) -> str:
    return f"for {question_in(prompt)}"


class _Waiting(FakeBackend):
    """Waits before each correction: its asynchronous members on the loop's clock, the others by keeping their thread busy."""

    def complete(self, requests):
        work()
        return super().complete(requests)

    async def acomplete(self, requests):
        await asyncio.sleep(random.uniform(0, 0.05))
        return FakeBackend.complete(self, requests)

    def stream(self, request):
        work()
        return super().stream(request)

    async def astream(self, request):
        for piece in FakeBackend.stream(self, request):
            await asyncio.sleep(random.uniform(0, 0.01))
            yield piece


class _Alike(Engine):
    """Answers all alike, each after a little while."""

    async def _aquery(self, query_bundle):
        await asyncio.sleep(random.uniform(0, 0.1))
        return self._query(query_bundle)


@pytest.mark.parametrize("kind", [Response, AsyncStreamingResponse])
async def test_fifty_questions_at_once(kind):
    aligner = Aligner(backend=_Waiting(_for_question), template=TEMPLATE)
    engine = AlignerQueryEngine(_Alike(lambda query: response_of(kind, DRAFT)), aligner)

    async def one(i: int) -> str:
        response = await engine.aquery(f"question {i}")
        text = "".join(await read(response))
        assert response.metadata["aligner"]["outcome"] == "corrected"
        return text

    with LoopWatch() as watch:
        texts = await asyncio.gather(*(one(i) for i in range(50)))
    assert texts == [f"for question {i}" for i in range(50)]
    assert not watch.blocked


@pytest.mark.parametrize("way", ["engine", "synthesizer"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_fifty_questions_at_once_over_a_real_index(way, streaming):
    llm, aligner, index = ScriptedLLM(), make_aligner(_for_question), make_index()
    if way == "engine":
        engine = AlignerQueryEngine(index.as_query_engine(llm=llm, streaming=streaming), aligner)
    else:
        synthesizer = AlignerSynthesizer(aligner=aligner, llm=llm, streaming=streaming)
        engine = index.as_query_engine(llm=llm, response_synthesizer=synthesizer)

    async def one(i: int) -> str:
        return "".join(await read(await engine.aquery(f"question {i}")))

    with LoopWatch() as watch:
        texts = await asyncio.gather(*(one(i) for i in range(50)))
    assert texts == [f"for question {i}" for i in range(50)]
    assert not watch.blocked


async def test_fifty_messages_at_once():
    """In one chat each turn runs by itself. (LlamaIndex's default memory loses messages of its own then; not this one.)"""
    memory = ChatMemoryBuffer.from_defaults(token_limit=9000)
    inner = make_index().as_chat_engine(chat_mode="context", llm=ScriptedLLM(), memory=memory)
    chat = AlignerChatEngine(inner, make_aligner(_for_question))
    with LoopWatch() as watch:
        responses = await asyncio.gather(*(chat.achat(f"message {i}") for i in range(50)))
    assert [response.response for response in responses] == [f"for message {i}" for i in range(50)]
    assert sorted(m.content for m in chat.chat_history) == sorted(
        f"{start}message {i}" for i in range(50) for start in ("", "for ")
    )
    assert not watch.blocked


def _slow(*texts: str) -> bool:
    work()
    return True


@pytest.mark.parametrize("kind", [Response, AsyncStreamingResponse])
async def test_fifty_questions_with_an_accept_that_takes_its_time(kind):
    aligner = Aligner(backend=_Waiting(_for_question), template=TEMPLATE, accept=_slow)
    engine = AlignerQueryEngine(_Alike(lambda query: response_of(kind, DRAFT)), aligner)

    async def one(i: int) -> str:
        return "".join(await read(await engine.aquery(f"question {i}")))

    with LoopWatch() as watch:
        texts = await asyncio.gather(*(one(i) for i in range(50)))
    assert texts == [f"for question {i}" for i in range(50)]
    assert not watch.blocked


class _Endless(FakeBackend):
    """Corrects nothing until it is cancelled, and says that it was."""

    def __init__(self):
        super().__init__(lambda prompt: "")
        self.running, self.cancelled = asyncio.Event(), 0

    async def acomplete(self, requests):
        self.running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def astream(self, request):
        await self.acomplete([request])
        yield ""


@pytest.mark.parametrize("way", ["aquery", "a stream", "achat", "astream_chat"])
async def test_a_cancelled_call_stops_the_aligner(way):
    """And leaves nothing in a chat's memory; of a stream that was seen, what the user said."""
    backend = _Endless()
    aligner, index, llm = Aligner(backend=backend, template=TEMPLATE), make_index(), ScriptedLLM()
    chat = AlignerChatEngine(index.as_chat_engine(chat_mode="context", llm=llm), aligner)

    async def call():
        if way == "aquery":
            await AlignerQueryEngine(index.as_query_engine(llm=llm), aligner).aquery("Is it?")
        elif way == "a stream":
            engine = AlignerQueryEngine(index.as_query_engine(llm=llm, streaming=True), aligner)
            await read(await engine.aquery("Is it?"))
        elif way == "achat":
            await chat.achat("Is it?")
        else:
            async for _ in (await chat.astream_chat("Is it?")).async_response_gen():
                pass

    task = asyncio.create_task(call())
    await asyncio.wait_for(backend.running.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.cancelled == 1
    assert [m.content for m in chat.chat_history] == (["Is it?"] if way == "astream_chat" else [])


def test_fifty_questions_from_threads():
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner(_for_question))
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(engine.query, [f"question {i}" for i in range(50)]))
    assert [response.response for response in responses] == [f"for question {i}" for i in range(50)]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 1), (1, 0), (1, 1)])
async def test_the_watch_sees_a_blocked_loop(before, after):
    """The measure used above can fail, in whichever callback of those that it watches."""
    with LoopWatch() as watch:
        for _ in range(before):
            await asyncio.sleep(0)
        work()
        for _ in range(after):
            await asyncio.sleep(0)
    assert watch.blocked
