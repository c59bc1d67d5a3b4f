"""Asking a chat model behind an OpenAI-compatible `/v1/chat/completions`, without any framework.

What is said to the model, and how its reply is read, is in `prompt.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from typing import Any

from aligner_integrations.backends.base import Request
from aligner_integrations.backends.deadline import Clock, brief
from aligner_integrations.backends.prompted.frameworks import Said
from aligner_integrations.backends.remote.http import Endpoint, Json
from aligner_integrations.backends.remote.keys import Secret
from aligner_integrations.backends.remote.responses import StatusError, Written, completion, only_model
from aligner_integrations.backends.remote.window import says_too_long, too_long

_PATH = "/chat/completions"


class ChatEndpoint:
    """A `Talker` for a chat endpoint.

    Args:
        url: The server's API; it ends in `/v1`.
        model: The model's name there. None asks `/v1/models`, and wants exactly one.
        api_key: Sent as a bearer token.
        generation: Fields of the request; temperature 0 by default.
        concurrency: Most requests on the way at once.
        allow_http: Whether the key may travel unencrypted to another machine.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        *,
        api_key: Secret | None,
        generation: Mapping[str, Any],
        concurrency: int,
        allow_http: bool,
    ) -> None:
        self.endpoint = Endpoint(url, api_key, allow_http=allow_http, concurrency=concurrency)
        self.generation = dict(generation)
        self._served = model

    def load(self) -> None:
        """Ask the server which model it has, unless that is known."""
        if self._served is None:
            self._served, _ = only_model(self.endpoint.ask("/models", None, brief()), self.endpoint.host)

    def say(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """Return the reply."""
        self.load()
        written = self._written()
        try:
            written.feed(self.endpoint.ask(_PATH, self._body(system, request), clock))
        except StatusError as refusal:
            raise _meaning(refusal) from None
        return self._end(written, said)

    async def asay(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """`say` without blocking the event loop."""
        if self._served is None:
            await asyncio.to_thread(self.load)
        written = self._written()
        try:
            written.feed(await self.endpoint.aask(_PATH, self._body(system, request), clock))
        except StatusError as refusal:
            raise _meaning(refusal) from None
        return self._end(written, said)

    def pieces(self, system: str, request: Request, clock: Clock, said: Said) -> Generator[str, None, None]:
        """Yield the reply as it comes."""
        self.load()
        written = self._written(streamed=True)
        try:
            with closing(self.endpoint.events(_PATH, {**self._body(system, request), "stream": True}, clock)) as events:
                for event in events:
                    yield written.feed(event)
                    if written.reason is not None:
                        break
        except StatusError as refusal:
            raise _meaning(refusal) from None
        self._end(written, said)

    async def apieces(self, system: str, request: Request, clock: Clock, said: Said) -> AsyncGenerator[str, None]:
        """`pieces` without blocking the event loop."""
        if self._served is None:
            await asyncio.to_thread(self.load)
        written = self._written(streamed=True)
        body = {**self._body(system, request), "stream": True}
        try:
            async with aclosing(self.endpoint.aevents(_PATH, body, clock)) as events:
                async for event in events:
                    yield written.feed(event)
                    if written.reason is not None:
                        break
        except StatusError as refusal:
            raise _meaning(refusal) from None
        self._end(written, said)

    def _body(self, system: str, request: Request) -> Json:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": request.prompt}]
        limit = {} if request.max_new_tokens is None else {"max_tokens": request.max_new_tokens}
        return {"model": self._served, "messages": messages, "temperature": 0, **limit, **self.generation}

    def _written(self, *, streamed: bool = False) -> Written:
        # A server that is asked for a stream may still answer in one piece.
        keys = ("delta", "message") if streamed else ("message",)
        return Written(
            self.endpoint.host,
            lambda choice: next((part.get("content") for k in keys if isinstance(part := choice.get(k), dict)), None),
        )

    def _end(self, written: Written, said: Said) -> str:
        done = completion(written.text, written.reason, written.usage, self.endpoint.host)
        said.reason, said.usage = done.finish_reason, done.usage
        return done.text


def _meaning(refusal: StatusError) -> Exception:
    if refusal.status in (400, 413, 422) and says_too_long(refusal.detail):
        return too_long(f"the server says: {refusal.detail}")
    return refusal
