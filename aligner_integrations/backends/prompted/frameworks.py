"""Asking a chat model of a framework: LangChain's, or LlamaIndex's. Neither framework is imported.

What has `invoke` and `ainvoke` is LangChain's; what has `complete` and `acomplete` is LlamaIndex's, whose `chat` takes
messages of its own class only, while its `complete` asks the same model with a text. What is said to the model, and how
its reply is read, is in `prompt.py`; a chat endpoint without a framework is in `chat_completions.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aligner_integrations.backends.base import INTERNAL_TAG
from aligner_integrations.backends.deadline import Clock, in_time, pulled
from aligner_integrations.backends.remote.keys import redact
from aligner_integrations.backends.remote.responses import may_pass, seconds_of
from aligner_integrations.backends.remote.window import says_too_long, too_long
from aligner_integrations.backends.request import Request
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, BackendError

_CONFIG = {"tags": [INTERNAL_TAG, "nostream"]}
"""In LangChain: this is not the user's upstream, and (for LangGraph) its tokens are not the user's, either."""

_PASSING = ("timeout", "connect", "ratelimit", "overloaded", "unavailable", "internalserver")


@dataclass(slots=True)
class Said:
    """What a model says apart from the text, once it has ended: why (None: it does not tell), and token counts."""

    reason: str | None = None
    usage: Usage = field(default_factory=Usage)


class Talker(Protocol):
    """One way to ask a chat model; `said` is filled by the time the text is complete."""

    async def asay(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """Return the reply."""

    def apieces(self, system: str, request: Request, clock: Clock, said: Said) -> AsyncGenerator[str, None]:
        """Yield the reply as it comes."""


class ThreadTalker(Talker, Protocol):
    """One that threads can use, too, as models of frameworks: those are never taken off their callers' threads."""

    def say(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """`asay` for a thread."""

    def pieces(self, system: str, request: Request, clock: Clock, said: Said) -> Generator[str, None, None]:
        """`apieces` for a thread."""


class LangChainTalker:
    """Asks a chat model of LangChain, or any other runnable that takes messages.

    Args:
        llm: The model.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def say(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """Return the reply."""
        with _explained(self.llm):
            return self._read(in_time(lambda: self.llm.invoke(_messages(system, request), config=_CONFIG), clock), said)

    async def asay(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """`say` without blocking the event loop."""
        with _explained(self.llm):
            async with asyncio.timeout(clock.left):
                return self._read(await self.llm.ainvoke(_messages(system, request), config=_CONFIG), said)

    def pieces(self, system: str, request: Request, clock: Clock, said: Said) -> Generator[str, None, None]:
        """Yield the reply as it comes."""
        chunks = pulled(lambda: self.llm.stream(_messages(system, request), config=_CONFIG), clock)
        with closing(chunks):
            for chunk in _each(self.llm, chunks):
                yield self._read(chunk, said)

    async def apieces(self, system: str, request: Request, clock: Clock, said: Said) -> AsyncGenerator[str, None]:
        """`pieces` without blocking the event loop."""
        async with aclosing(self.llm.astream(_messages(system, request), config=_CONFIG)) as chunks:
            async for chunk in _aeach(self.llm, chunks, clock):
                yield self._read(chunk, said)

    def _read(self, message: Any, said: Said) -> str:
        if isinstance(message, str):
            return message
        about = getattr(message, "response_metadata", None) or {}
        # OpenAI and most others; Anthropic; Ollama.
        said.reason = next(
            (about[k] for k in ("finish_reason", "stop_reason", "done_reason") if about.get(k)), said.reason
        )
        counts = getattr(message, "usage_metadata", None) or {}
        said.usage += Usage(counts.get("input_tokens", 0), counts.get("output_tokens", 0))
        text = getattr(message, "text", None)
        if not isinstance(text, str):
            raise BackendError(f"{_name(self.llm)} replied with a {type(message).__name__}, which holds no text.")
        return str(text)


class LlamaIndexTalker:
    """Asks an LLM of LlamaIndex.

    Args:
        llm: The model.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def say(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """Return the reply."""
        with _explained(self.llm):
            response = in_time(lambda: self.llm.complete(_text(system, request)), clock)
        self._read(response, said)
        return str(response.text)

    async def asay(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """`say` without blocking the event loop."""
        with _explained(self.llm):
            async with asyncio.timeout(clock.left):
                response = await self.llm.acomplete(_text(system, request))
        self._read(response, said)
        return str(response.text)

    def pieces(self, system: str, request: Request, clock: Clock, said: Said) -> Generator[str, None, None]:
        """Yield the reply as it comes."""
        with closing(pulled(lambda: self.llm.stream_complete(_text(system, request)), clock)) as responses:
            for response in _each(self.llm, responses):
                self._read(response, said)
                yield response.delta or ""

    async def apieces(self, system: str, request: Request, clock: Clock, said: Said) -> AsyncGenerator[str, None]:
        """`pieces` without blocking the event loop."""
        with _explained(self.llm):
            async with asyncio.timeout(clock.left):
                responses = await self.llm.astream_complete(_text(system, request))
        async with aclosing(responses):
            async for response in _aeach(self.llm, responses, clock):
                self._read(response, said)
                yield response.delta or ""

    def _read(self, response: Any, said: Said) -> None:
        """What the model's own API said is in `raw`, as a dict or as an object of its client."""
        raw = getattr(response, "raw", None)
        choices = _get(raw, "choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        reasons = (_get(choice, "finish_reason"), _get(raw, "stop_reason"), _get(raw, "done_reason"))
        said.reason = next((reason for reason in reasons if isinstance(reason, str)), said.reason)
        usage = _get(raw, "usage")
        counts = (_get(usage, "prompt_tokens"), _get(usage, "completion_tokens"))
        if all(isinstance(count, int) for count in counts):
            said.usage = Usage(*counts)


def _messages(system: str, request: Request) -> list[tuple[str, str]]:
    return [*([("system", system)] if system else []), ("human", request.prompt)]


def _text(system: str, request: Request) -> str:
    return f"{system}\n\n{request.prompt}" if system else request.prompt


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _each(llm: Any, chunks: Iterator[Any]) -> Iterator[Any]:
    while True:
        with _explained(llm):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


async def _aeach(llm: Any, chunks: AsyncIterator[Any], clock: Clock) -> AsyncIterator[Any]:
    while True:
        with _explained(llm):
            async with asyncio.timeout(clock.left):
                chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


def _name(llm: Any) -> str:
    return type(llm).__name__


@contextmanager
def _explained(llm: Any) -> Iterator[None]:
    """Turn what an LLM of others raises into an error of ours, with what it says of trying again."""
    try:
        yield
    except AlignerError:
        raise
    except Exception as error:  # noqa: BLE001 - models of others raise whatever they like
        text = " ".join(str(error).split())
        shown = redact(text)
        if says_too_long(text):
            raise too_long(f"{_name(llm)} says: {shown[:300]}") from None
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        kind = type(error).__name__
        passing = isinstance(error, TimeoutError) or any(name in kind.lower() for name in _PASSING)
        failure = BackendError(
            f"{_name(llm)} did not reply in time."
            if isinstance(error, TimeoutError) and not text
            else f"{_name(llm)} failed: {kind}: {shown[:300] or 'no details'}",
            retryable=may_pass(status) if isinstance(status, int) else passing,
            retry_after=_retry_after(response),
        )
        # A traceback shows the cause with its own words, and these must not hold a key.
        raise failure from (error if shown == text else None)


def _retry_after(response: Any) -> float | None:
    headers = getattr(response, "headers", None)
    try:
        return None if headers is None else seconds_of(headers["retry-after"])
    except (KeyError, TypeError):
        return None
