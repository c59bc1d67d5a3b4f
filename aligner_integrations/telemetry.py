"""What an operator sees of corrections: OpenTelemetry spans and metrics, and log records. No text, unless it is asked for.

    span     aligner.correct                 one call of `correct`, `correct_many` and their twins; an event a correction
    span     aligner.complete, .score, .stream   one call of a backend, so one a try: a cache hit has none
    counter  aligner.corrections             by aligner.outcome, aligner.reason and error.type
    counter  aligner.tokens                  by aligner.direction (read, written)
    counter  aligner.retries, aligner.fallbacks, aligner.cache.lookups
    histogram  aligner.correction.duration, aligner.backend.duration   in seconds

Spans and metrics are made if opentelemetry-api is installed, and go where the application's SDK sends them; without
either they cost nothing. Log records are those of `logging`, logger `aligner_integrations`. With `ALIGNER_LOG_TEXT=1` in
the environment, questions, answers and corrections are in spans and debug records, too.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from aligner_integrations.backends.base import Backend, Completion, JudgesStreams, Keep, Request, Score
from aligner_integrations.backends.wrappers.base import Wrapper
from aligner_integrations.errors import AlignerError

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Span, Tracer

    from aligner_integrations.correction import Correction

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Piece = TypeVar("_Piece")

_NAME = "aligner_integrations"
_UNITS = {"aligner.correction.duration": "s", "aligner.backend.duration": "s", "aligner.tokens": "{token}"}


class Instruments:
    """Where spans and measurements go.

    Args:
        tracer: Makes spans.
        meter: Makes counters and histograms.
    """

    def __init__(self, tracer: Tracer, meter: Meter) -> None:
        self.tracer = tracer
        self._meter = meter
        self._made: dict[str, Any] = {}
        self._guard = threading.Lock()

    def counter(self, name: str) -> Any:
        """The counter of a name."""
        return self._once(name, self._meter.create_counter)

    def histogram(self, name: str) -> Any:
        """The histogram of a name."""
        return self._once(name, self._meter.create_histogram)

    def _once(self, name: str, create: Callable[..., Any]) -> Any:
        with self._guard:  # an SDK warns of a second instrument of the same name
            if name not in self._made:
                self._made[name] = create(name, unit=_UNITS.get(name, "1"))
            return self._made[name]


@functools.cache
def instruments() -> Instruments | None:
    """Return where spans and measurements go; None without opentelemetry-api."""
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        return None
    # Proxies: they turn to the application's SDK as soon as it is set up.
    return Instruments(trace.get_tracer(_NAME), metrics.get_meter(_NAME))


def shows_text() -> bool:
    """Whether questions, answers and corrections may be seen."""
    return os.environ.get("ALIGNER_LOG_TEXT") == "1"


def count(name: str, amount: int, attributes: Mapping[str, str | bool]) -> None:
    """Add to a counter."""
    if amount and (to := instruments()) is not None:
        to.counter(name).add(amount, attributes)


def corrected(correction: Correction, error: AlignerError | None) -> None:
    """Report a correction that is done, or has failed with this error."""
    kind = None if error is None else type(error).__name__
    reason = None if error is not None else correction.reason
    logger.debug(
        "%s (%s) after %.3f s and %d + %d tokens",
        correction.outcome,
        kind or reason or "changed",
        correction.seconds,
        correction.usage.prompt_tokens,
        correction.usage.completion_tokens,
    )
    if shows_text():
        logger.debug(
            "question %r, answer %r, text %r%s",
            correction.question,
            correction.answer,
            correction.text,
            f", error {error}" if error else "",
        )
    elif error is not None and correction.outcome == "failed":
        # The message may quote a server, which may quote the prompt.
        logger.info("A correction failed: %s.", kind)
    if (to := instruments()) is None:
        return
    from opentelemetry import trace

    found = {"aligner.outcome": correction.outcome, "aligner.reason": reason, "error.type": kind}
    attributes = {name: value for name, value in found.items() if value is not None}
    to.counter("aligner.corrections").add(1, attributes)
    to.histogram("aligner.correction.duration").record(correction.seconds, {"aligner.outcome": correction.outcome})
    to.counter("aligner.tokens").add(correction.usage.prompt_tokens, {"aligner.direction": "read"})
    to.counter("aligner.tokens").add(correction.usage.completion_tokens, {"aligner.direction": "written"})
    span = trace.get_current_span()
    if span.is_recording():
        text = {
            "aligner.question": correction.question,
            "aligner.answer": correction.answer,
            "aligner.text": correction.text,
        }
        span.add_event("aligner.correction", attributes | (text if shows_text() else {}))


def correcting(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Put a span around a verb."""

    @functools.wraps(verb)
    def with_span(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _span("aligner.correct"):
            return verb(*args, **kwargs)

    return with_span


def acorrecting(verb: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]:
    """The asynchronous twin of `correcting`."""

    @functools.wraps(verb)
    async def with_span(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _span("aligner.correct"):
            return await verb(*args, **kwargs)

    return with_span


def traced(backend: Backend) -> Backend:
    """Return the backend with a span around each call, if there is anything to make spans."""
    to = instruments()
    if to is None:
        return backend
    return TracedJudge(backend, to) if isinstance(backend, JudgesStreams) else TracedBackend(backend, to)


class TracedBackend(Wrapper):
    """A backend with a span around each of its calls."""

    def __init__(self, inner: Backend, to: Instruments) -> None:
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
        async with aclosing(self._apieces(self.inner.astream(request))) as pieces:
            async for piece in pieces:
                yield piece

    async def _apieces(self, pieces: AsyncIterator[_Piece]) -> AsyncGenerator[_Piece, None]:
        closed: AbstractAsyncContextManager[Any] = (
            aclosing(pieces) if isinstance(pieces, AsyncGenerator) else nullcontext()
        )
        with self._call("stream", 1, current=False):
            async with closed:
                async for piece in pieces:
                    yield piece

    @contextmanager
    def _call(self, verb: str, requests: int, *, current: bool = True) -> Iterator[Callable[[list[_R]], list[_R]]]:
        name, started = type(self.inner).__name__, time.monotonic()
        errors: list[str] = []
        with _span(f"aligner.{verb}", current=current) as span:
            span.set_attribute("aligner.backend", name)
            span.set_attribute("aligner.requests", requests)

            def ended(results: list[_R]) -> list[_R]:
                errors.extend(sorted({type(result).__name__ for result in results if isinstance(result, AlignerError)}))
                if errors:
                    _failed(span, ", ".join(errors))
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


class TracedJudge(TracedBackend):
    """A traced backend that judges an answer while it streams."""

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept; see `JudgesStreams`."""
        with self._call("stream", 1, current=False):
            yield from cast("JudgesStreams", self.inner).stream_unless(request, keep)

    async def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop."""
        judged = cast("JudgesStreams", self.inner).astream_unless(request, keep)
        async with aclosing(self._apieces(judged)) as pieces:
            async for piece in pieces:
                yield piece


@contextmanager
def _span(name: str, *, current: bool = True) -> Iterator[Any]:
    """Make a span; of an error it tells the type only, because a message may quote a text."""
    if (to := instruments()) is None:
        yield None
        return
    from opentelemetry import trace

    span = to.tracer.start_span(name)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False) if current else nullcontext():
            yield span
    except GeneratorExit:  # a stream that is closed before its end
        span.set_attribute("aligner.abandoned", value=True)
        raise
    except BaseException as error:
        _failed(span, type(error).__name__)
        raise
    finally:
        span.end()


def _failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, kind))
    span.set_attribute("error.type", kind)
