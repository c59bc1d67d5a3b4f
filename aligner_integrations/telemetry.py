"""What an operator sees of corrections: OpenTelemetry spans and metrics, and log records. No text, unless it is asked for.

    span     aligner.correct                 one call of `correct`, `correct_many` and their twins; an event a correction
    span     aligner.complete, .score, .stream   one call of a backend, so one a try: a cache hit has none
    counter  aligner.corrections             by aligner.outcome, aligner.reason and error.type
    counter  aligner.tokens                  by aligner.direction (read, written)
    counter  aligner.retries, aligner.fallbacks, aligner.cache.lookups, aligner.records.dropped
    histogram  aligner.correction.duration, aligner.backend.duration   in seconds

Spans and metrics are made if opentelemetry-api is installed, and go where the application's SDK sends them; without
either they cost nothing. Log records are those of `logging`, logger `aligner_integrations`. With `ALIGNER_LOG_TEXT=1` in
the environment, questions, answers and corrections are in spans and debug records, too.

What lives elsewhere: the spans around a backend's calls (`backends/wrappers/traced.py`).
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from aligner_integrations.errors import AlignerError
from aligner_integrations.forking import Lock

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Span, Tracer

    from aligner_integrations.correction import Correction

logger = logging.getLogger(__name__)

_NAME = "aligner_integrations"
_UNITS = {"aligner.correction.duration": "s", "aligner.backend.duration": "s", "aligner.tokens": "{token}"}


class Instruments:
    """Where spans and measurements go.

    Args:
        tracer: Makes spans.
        meter: Makes counters and histograms.
    """

    def __init__(self, tracer: Tracer, meter: Meter) -> None:
        from opentelemetry import trace

        self.tracer = tracer
        self.current_span = trace.get_current_span
        self._meter = meter
        self._made: dict[str, Any] = {}
        self._guard = Lock()

    def counter(self, name: str) -> Any:
        """The counter of a name."""
        return self._once(name, self._meter.create_counter)

    def histogram(self, name: str) -> Any:
        """The histogram of a name."""
        return self._once(name, self._meter.create_histogram)

    def _once(self, name: str, create: Callable[..., Any]) -> Any:
        if (made := self._made.get(name)) is None:
            with self._guard:  # an SDK warns of a second instrument of the same name
                if (made := self._made.get(name)) is None:
                    made = self._made[name] = create(name, unit=_UNITS.get(name, "1"))
        return made


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


def trace_id() -> str | None:
    """Return the id of the trace in which this is done, if there is one."""
    if (to := instruments()) is None:
        return None
    context = to.current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def corrected(correction: Correction, error: AlignerError | None) -> None:
    """Report a correction that is done, or has failed with this error."""
    kind = None if error is None else type(error).__name__
    reason = None if error is not None else correction.reason
    if logger.isEnabledFor(logging.DEBUG):
        _tell(correction, kind or reason or "changed", error)
    if error is not None and correction.outcome == "failed" and not shows_text():
        # The message may quote a server, which may quote the prompt.
        logger.info("A correction failed: %s.", kind)
    if (to := instruments()) is None:
        return
    found = {"aligner.outcome": correction.outcome, "aligner.reason": reason, "error.type": kind}
    attributes = {name: value for name, value in found.items() if value is not None}
    to.counter("aligner.corrections").add(1, attributes)
    to.histogram("aligner.correction.duration").record(correction.seconds, {"aligner.outcome": correction.outcome})
    to.counter("aligner.tokens").add(correction.usage.prompt_tokens, {"aligner.direction": "read"})
    to.counter("aligner.tokens").add(correction.usage.completion_tokens, {"aligner.direction": "written"})
    span = to.current_span()
    if span.is_recording():
        text = {
            "aligner.question": correction.question,
            "aligner.answer": correction.answer,
            "aligner.text": correction.text,
        }
        span.add_event("aligner.correction", attributes | (text if shows_text() else {}))


def _tell(correction: Correction, why: str, error: AlignerError | None) -> None:
    usage = correction.usage
    logger.debug(
        "%s (%s) after %.3f s and %d + %d tokens",
        correction.outcome,
        why,
        correction.seconds,
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    if shows_text():
        logger.debug(
            "question %r, answer %r, text %r%s",
            correction.question,
            correction.answer,
            correction.text,
            f", error {error}" if error else "",
        )


@contextmanager
def span(name: str, *, current: bool = True) -> Iterator[Any]:
    """Make a span, if there is anything that makes spans, else yield None.

    Of an error it tells the type only, because a message may quote a text.
    """
    if (to := instruments()) is None:
        yield None
        return
    from opentelemetry import trace

    made = to.tracer.start_span(name)
    if not made.get_span_context().is_valid:  # nobody listens, and this is done for each of thousands of corrections
        yield made
        return
    try:
        with trace.use_span(made, record_exception=False, set_status_on_exception=False) if current else nullcontext():
            yield made
    except GeneratorExit:  # a stream that is closed before its end
        made.set_attribute("aligner.abandoned", value=True)
        raise
    except BaseException as error:
        failed(made, type(error).__name__)
        raise
    finally:
        made.end()


def failed(span: Span, kind: str) -> None:
    """Mark a span with the type of an error."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, kind))
    span.set_attribute("error.type", kind)
