"""Asking a chat model behind an OpenAI-compatible `/v1/chat/completions`, without any framework.

What is said to the model, and how its reply is read, is in `prompt.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.prompted.frameworks import Said
from aligner_integrations.backends.remote.http import Endpoint, Json
from aligner_integrations.backends.remote.keys import Secret
from aligner_integrations.backends.remote.responses import StatusError, Written, only_model
from aligner_integrations.backends.remote.window import says_too_long, too_long
from aligner_integrations.backends.request import Request

_PATH = "/chat/completions"


class ChatEndpoint:
    """A `Talker` for a chat endpoint; what it does, it does on the loop of all that goes to servers.

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

    async def asay(self, system: str, request: Request, clock: Clock, said: Said) -> str:
        """Return the reply."""
        pieces = self._replied(system, request, clock, said, stream=False)
        async with aclosing(pieces):
            return "".join([piece async for piece in pieces])

    def apieces(self, system: str, request: Request, clock: Clock, said: Said) -> AsyncGenerator[str, None]:
        """Yield the reply as it comes."""
        return self._replied(system, request, clock, said, stream=True)

    async def _replied(
        self, system: str, request: Request, clock: Clock, said: Said, *, stream: bool
    ) -> AsyncGenerator[str, None]:
        if self._served is None:
            self._served, _ = only_model(await self.endpoint.look_up("/models", clock), self.endpoint.host)
        written, body = self._written(stream=stream), self._body(system, request)
        try:
            if not stream:
                yield written.feed(await self.endpoint.ask(_PATH, body, clock))
            else:
                async with aclosing(self.endpoint.events(_PATH, {**body, "stream": True}, clock)) as events:
                    async for event in events:
                        yield written.feed(event)
                        if written.reason is not None:
                            break
        except StatusError as refusal:
            raise _meaning(refusal) from None
        done = written.completion()
        said.reason, said.usage = done.finish_reason, done.usage

    def _body(self, system: str, request: Request) -> Json:
        messages = [{"role": "user", "content": request.prompt}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        limit = {} if request.max_new_tokens is None else {"max_tokens": request.max_new_tokens}
        return {"model": self._served, "messages": messages, "temperature": 0, **limit, **self.generation}

    def _written(self, *, stream: bool) -> Written:
        # A server that is asked for a stream may still answer in one piece.
        keys = ("delta", "message") if stream else ("message",)
        return Written(
            self.endpoint.host,
            lambda choice: next((part.get("content") for k in keys if isinstance(part := choice.get(k), dict)), None),
        )


def _meaning(refusal: StatusError) -> Exception:
    if refusal.status in (400, 413, 422) and says_too_long(refusal.detail):
        return too_long(f"the server says: {refusal.detail}")
    return refusal
