"""An upstream that answers everything alike, and an aligner that shows which question it was given."""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from pydantic import Field

from aligner_integrations import Aligner, AlignerRunnable
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.langchain.question.recorder import RECORDER

ALIKE = "I do not know."
PROMPT = ChatPromptTemplate.from_messages([("system", "Be nice."), ("human", "{q}")])
OTHER_PROMPT = ChatPromptTemplate.from_template("other {q}")


def want(question: str, answer: str = ALIKE) -> str:
    return f"[{question}] {answer}"


def mark(prompt: str) -> str:
    """Correction: the answer behind the question that came with it."""
    question, _, answer = prompt.partition("||")
    return f"[{question}] {answer.strip()}"


def repeat(prompt: str) -> str:
    """Correction: the answer as it is."""
    return prompt.partition("||")[2]


class Backend(FakeBackend):
    """Counts the batches it is given and the streams that were opened and closed."""

    def __init__(self, fn: Any) -> None:
        super().__init__(fn)
        self.batches: list[int] = []
        self.opened = 0
        self.closed = 0

    def complete(self, requests: Any) -> Any:
        self.batches.append(len(requests))
        return super().complete(requests)

    def stream(self, request: Any) -> Any:
        self.opened += 1
        try:
            yield from super().stream(request)
        finally:
            self.closed += 1

    async def astream(self, request: Any) -> Any:
        self.opened += 1
        try:
            for piece in FakeBackend.stream(self, request):
                await asyncio.sleep(0)
                yield piece
        finally:
            self.closed += 1


def aligner(fn: Any = mark, **options: Any) -> Aligner:
    return Aligner(backend=Backend(fn), template="{question}||{answer}", **options)


def step(fn: Any = mark, **options: Any) -> AlignerRunnable:
    return AlignerRunnable(aligner(fn), **options)


class Named:
    """Equal to an aligner whose model has this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, aligner: object) -> bool:
        return isinstance(aligner, Aligner) and aligner.backend.name == self.name


class Upstream(BaseChatModel):
    """Gives one and the same answer to every question, after a random while: the worst case for mixing up."""

    answer: Any = ALIKE
    delay: float = 0.0
    fails: bool = False
    message: dict[str, Any] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "alike"

    def _result(self) -> ChatResult:
        if self.fails:
            raise RuntimeError("the upstream is down")
        message = AIMessage(content=self.answer, **self.message)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        time.sleep(random.random() * self.delay)
        return self._result()

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        await asyncio.sleep(random.random() * self.delay)
        return self._result()

    def _chunks(self):
        if self.fails:
            raise RuntimeError("the upstream is down")
        for word in self.answer.split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word if word.endswith(".") else word + " "))

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in self._chunks():
            time.sleep(random.random() * self.delay / 4)
            yield chunk

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in self._chunks():
            await asyncio.sleep(random.random() * self.delay / 4)
            yield chunk


USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
REASONING = {"type": "reasoning", "reasoning": "Hm.", "extras": {"signature": "s"}}


def full_message(content: Any = ALIKE, kind: Any = AIMessage, **metadata: Any) -> Any:
    """A message with everything a provider tells."""
    return kind(
        content=content,
        id="msg-1",
        name="writer",
        usage_metadata=USAGE,
        additional_kwargs={"extra": [1]},
        response_metadata={"model_name": "m", "finish_reason": "stop", **metadata},
    )


def asked(answer: Any) -> list[Any]:
    """An answer behind the question it was given to."""
    return [HumanMessage("Why?"), answer]


def held() -> int:
    """How many runs and LLM calls the recorder holds."""
    sizes = RECORDER.sizes()
    return sizes["scopes"] + sizes["calls"]


async def settle() -> None:
    """LangChain leaves the streams inside a closed one to the event loop."""

    def nothing_is_held() -> bool:
        gc.collect()
        return held() == 0

    gc.collect()
    await asyncio.sleep(0.005)  # what is closed then is closed a step later
    await until(nothing_is_held)


async def until(happened: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0.005)


def called(runnable: Any, value: Any) -> Iterator[Any]:
    """The results of every way to call a runnable."""
    yield runnable.invoke(value)
    yield asyncio.run(runnable.ainvoke(value))
    yield runnable.batch([value])[0]
    yield asyncio.run(runnable.abatch([value]))[0]


async def astreamed(runnable: Any, value: Any, config: Any = None) -> list[Any]:
    return [chunk async for chunk in runnable.astream(value, config)]


def on_threads(ask: Any, values: Sequence[Any]) -> list[Any]:
    """The results of as many threads at once as there are values."""
    with ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(ask, values))


def asked_in_a_pool(question: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:  # without the context of the chain
        return pool.submit(Upstream().invoke, question).result()


class Names(BaseCallbackHandler):
    """The names of the runs that start."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.names.append(kwargs["name"])


def text(result: Any) -> str:
    return result if isinstance(result, str) else result.text


def total(chunks: Any) -> Any:
    """Add chunks up as a user of a stream does."""
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole
