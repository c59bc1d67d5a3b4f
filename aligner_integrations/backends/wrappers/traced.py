"""A span and a duration for each call of a backend, so one for each try: what an operator sees of it.

What lives elsewhere: where spans and measurements go, and those of whole corrections (`telemetry.py`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from aligner_integrations import telemetry
from aligner_integrations.backends.base import Backend, closing_at_end
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.score import Keep, Score
from aligner_integrations.backends.wrappers.base import Wrapper
from aligner_integrations.errors import AlignerError

_R = TypeVar("_R")


def traced(backend: Backend) -> Backend:
    """Return the backend with a span around each call, if there is anything to make spans."""
    to = telemetry.instruments()
    return backend if to is None else TracedBackend(backend, to)


class TracedBackend(Wrapper):
    """A backend with a span around each of its calls."""

    def __init__(self, inner: Backend, to: telemetry.Instruments) -> None:
        super().__init__(inner)
        self._to = to

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Run a batch."""
        with self._call("complete", len(requests)) as ended:
            return ended(self.inner.complete(requests))

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop."""
        with self._call("complete", len(requests)) as ended:
            return ended(await self.inner.acomplete(requests))

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge answers."""
        with self._call("score", len(requests)) as ended:
            return ended(self.inner.score(requests))

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        with self._call("score", len(requests)) as ended:
            return ended(await self.inner.ascore(requests))

    # Whoever reads a stream does other things in between, so its span is nobody's parent.

    def stream(self, request: Request) -> Iterator[str]:
        """Yield text as it is written."""
        with self._call("stream", 1, current=False):
            yield from self.inner.stream(request)

    async def astream(self, request: Request) -> AsyncIterator[str]:
        """`stream` without blocking the event loop."""
        with self._call("stream", 1, current=False):
            async with closing_at_end(self.inner.astream(request)) as pieces:
                async for piece in pieces:
                    yield piece

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept. One span if it is judged while it streams, else one for each call."""
        if not self.judges_streams:
            yield from super().stream_unless(request, keep)
            return
        with self._call("stream", 1, current=False):
            yield from self.inner.stream_unless(request, keep)

    async def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop."""
        if not self.judges_streams:
            async with closing_at_end(super().astream_unless(request, keep)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        with self._call("stream", 1, current=False):
            async with closing_at_end(self.inner.astream_unless(request, keep)) as pieces:
                async for piece in pieces:
                    yield piece

    @contextmanager
    def _call(self, verb: str, requests: int, *, current: bool = True) -> Iterator[Callable[[list[_R]], list[_R]]]:
        name, started = type(self.inner).__name__, time.monotonic()
        errors: list[str] = []
        with telemetry.span(f"aligner.{verb}", current=current) as span:
            span.set_attribute("aligner.backend", name)
            span.set_attribute("aligner.requests", requests)

            def ended(results: list[_R]) -> list[_R]:
                errors.extend(sorted({type(result).__name__ for result in results if isinstance(result, AlignerError)}))
                if errors:
                    telemetry.failed(span, ", ".join(errors))
                usages = [result.usage for result in results if isinstance(result, Completion)]
                span.set_attribute("gen_ai.usage.input_tokens", sum(usage.prompt_tokens for usage in usages))
                span.set_attribute("gen_ai.usage.output_tokens", sum(usage.completion_tokens for usage in usages))
                return results

            try:
                yield ended
            except BaseException as error:
                errors.append(type(error).__name__)
                raise
            finally:
                attributes = {"aligner.verb": verb, "aligner.backend": name}
                if errors:
                    attributes["error.type"] = errors[0]
                self._to.histogram("aligner.backend.duration").record(time.monotonic() - started, attributes)
