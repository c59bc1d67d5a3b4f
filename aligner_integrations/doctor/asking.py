"""Small questions to a server of completions, each answered with what the doctor looks at: text, counts, times, or the refusal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aligner_integrations.backends.deadline import Clock
from aligner_integrations.backends.remote.completions import CompletionsBackend
from aligner_integrations.backends.remote.http import Json
from aligner_integrations.backends.remote.loop import call
from aligner_integrations.backends.remote.responses import StatusError, Written
from aligner_integrations.backends.request import Timeouts
from aligner_integrations.errors import BackendError

_PATH = "/completions"


@dataclass(frozen=True, slots=True)
class Said:
    """What a server said.

    Attributes:
        text: The text it wrote.
        reason: Why it ended, in the server's word; None: it does not say.
        prompt_tokens: How many tokens it read; 0: it does not say.
        completion_tokens: How many it wrote; 0: it does not say.
        seconds: How long it took.
        pieces: In how many pieces the text came.
        raw: The whole response.
    """

    text: str
    reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    pieces: int = 1
    raw: Any = None


class Server:
    """A server of completions.

    Args:
        backend: How it is reached.
        patience: Seconds to wait for an answer.
    """

    def __init__(self, backend: CompletionsBackend, patience: float = 60.0) -> None:
        self.backend, self.patience = backend, patience
        self.model: str | None = backend.model

    def models(self) -> list[dict[str, Any]]:
        """Return what `/models` lists.

        Raises:
            BackendError: It lists nothing.
        """
        answer = call(self.backend.endpoint.ask, "/models", None, self._clock())
        rows = answer.get("data") if isinstance(answer, dict) else None
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def say(self, prompt: str | list[int], tokens: int, **more: Any) -> Said:
        """Have a prompt continued, greedily.

        Raises:
            BackendError: The server refuses or fails.
        """
        started, answer = self._asked(self._body(prompt, tokens, more))
        written = Written(self.backend.endpoint.host)
        written.take(answer)
        return self._said(written, time.perf_counter() - started, raw=answer)

    def _asked(self, body: Json) -> tuple[float, Any]:
        """Return when a request began, and its response; what a passing fault took is asked once more."""
        started = time.perf_counter()
        try:
            return started, self._post(body)
        except BackendError as error:
            if not error.retryable:
                raise
        started = time.perf_counter()
        return started, self._post(body)

    def _post(self, body: Json) -> Any:
        return call(self.backend.endpoint.ask, _PATH, body, self._clock())

    def stream(self, prompt: str, tokens: int) -> Said:
        """The same, piece by piece."""
        return call(self._stream, self._body(prompt, tokens, {"stream": True}))

    async def _stream(self, body: Json) -> Said:
        started, pieces = time.perf_counter(), 0
        written = Written(self.backend.endpoint.host)
        async for event in self.backend.endpoint.events(_PATH, body, self._clock()):
            pieces += bool(written.feed(event))
        return self._said(written, time.perf_counter() - started, pieces)

    def side_by_side(self, prompts: Sequence[str], tokens: int) -> list[Said]:
        """Have prompts continued, all at once."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.say(prompt, tokens), prompts))

    def refusal(self, prompt: str | list[int], tokens: int = 1, **more: Any) -> StatusError | None:
        """Return why a prompt is refused; None if it is not.

        Raises:
            BackendError: The server fails in another way.
        """
        try:
            self.say(prompt, tokens, **more)
        except StatusError as refused:
            return refused
        return None

    def _body(self, prompt: str | list[int], tokens: int, more: Json) -> Json:
        return {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}

    def _clock(self) -> Clock:
        return Clock(Timeouts(connect=10, deadline=time.monotonic() + self.patience))

    @staticmethod
    def _said(written: Written, seconds: float, pieces: int = 1, raw: Any = None) -> Said:
        usage = written.usage
        reason = None if written.reason is None else str(written.reason)
        return Said(written.text, reason, usage.prompt_tokens, usage.completion_tokens, seconds, pieces, raw)
