"""Spans, metrics and log records of corrections, and that none of them holds text unless asked."""

import logging
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from aligner_integrations import Aligner, telemetry
from aligner_integrations.backends.base import Backend, Completion, FakeBackend
from aligner_integrations.backends.wrappers.cached import Cache
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.correction import Usage
from aligner_integrations.errors import BackendError
from tests.unit.backends.wrappers.flaky import FlakyBackend, JudgingBackend
from tests.unit.support import TEMPLATE, ResultBackend, ScoringBackend, fixed, score_of

LEAKY = BackendError("the server said: my secret prompt", retryable=True)
QUICK = {"backoff": 0.001, "max_backoff": 0.002}


class Seen:
    """What an application's SDK has got."""

    def __init__(self):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        spans = TracerProvider()
        spans.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = spans.get_tracer("tests")
        self.instruments = telemetry.Instruments(self.tracer, MeterProvider([self.reader]).get_meter("tests"))

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def metrics(self):
        """Value of each counter, or number of measurements, by name and attributes."""
        found = {}
        data = self.reader.get_metrics_data()
        for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
            for point in metric.data.data_points:
                value = point.count if hasattr(point, "count") else point.value
                found[metric.name, *sorted(point.attributes.items())] = value
        return found

    def everything(self):
        return "".join(span.to_json() for span in self.spans) + str(self.metrics())


@pytest.fixture
def seen(monkeypatch):
    made = Seen()
    monkeypatch.setattr(telemetry, "instruments", lambda: made.instruments)
    return made


def aligner_of(backend, **options):
    return Aligner(backend=backend, template=TEMPLATE, **options)


# Spans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_correction_is_a_span_with_the_calls_of_the_backend_in_it(seen, asynchronous):
    backend = ScoringBackend(lambda answer: score_of(answer, gap=2.0), gate=1.0)
    with seen.tracer.start_as_current_span("request"):
        aligner = aligner_of(backend)
        done = await aligner.acorrect("q", "bad") if asynchronous else aligner.correct("q", "bad")
    assert done.text == "good"
    score, complete, correct, request = seen.spans
    assert [span.name for span in seen.spans] == ["aligner.score", "aligner.complete", "aligner.correct", "request"]
    assert score.parent.span_id == complete.parent.span_id == correct.context.span_id
    assert correct.parent.span_id == request.context.span_id
    assert complete.attributes["aligner.backend"] == "ScoringBackend"
    (event,) = correct.events
    assert event.attributes == {"aligner.outcome": "corrected"}


async def test_each_try_is_a_span(seen):
    aligner = aligner_of(FlakyBackend(LEAKY, LEAKY), resilience=Resilience(**QUICK))
    await aligner.acorrect("q", "bad")
    tries = seen.named("aligner.complete")
    assert [span.status.status_code for span in tries] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert [span.attributes.get("error.type") for span in tries] == ["BackendError", "BackendError", None]


async def test_a_hit_has_no_call_of_the_backend(seen):
    aligner = aligner_of(FlakyBackend(), cache=Cache())
    for _ in range(3):
        await aligner.acorrect("q", "bad")
    assert (len(seen.named("aligner.complete")), len(seen.named("aligner.correct"))) == (1, 3)


async def test_streams_have_a_span_that_is_nobodys_parent(seen):
    aligner = aligner_of(FlakyBackend())
    stream = aligner.stream("q", "bad day")
    next(stream)
    assert trace.get_current_span() is trace.INVALID_SPAN
    list(stream)
    pieces = [piece async for piece in aligner.astream("q", "bad day")]
    assert "".join(pieces) == "good day"
    assert len(seen.named("aligner.stream")) == 2
    closed = aligner.astream("q", "bad day")
    await anext(closed)
    await closed.aclose()
    assert seen.named("aligner.stream")[-1].attributes["aligner.abandoned"] is True


async def test_tokens_are_counted(seen):
    backend = ResultBackend(lambda answer: Completion("good", "stop", Usage(7, 2)))
    aligner_of(backend).correct_many([("q", "bad"), ("q", "worse")])
    (call,) = seen.named("aligner.complete")
    assert (call.attributes["gen_ai.usage.input_tokens"], call.attributes["gen_ai.usage.output_tokens"]) == (14, 4)
    metrics = seen.metrics()
    assert metrics["aligner.tokens", ("aligner.direction", "read")] == 14
    assert metrics["aligner.tokens", ("aligner.direction", "written")] == 4


# Metrics --------------------------------------------------------------------------------------------------------------


async def test_outcomes_are_counted(seen):
    aligner = aligner_of(FlakyBackend(LEAKY), on_error="keep")
    aligner.correct("q", "bad")
    await aligner.acorrect("q", "bad")
    aligner.correct("q", "fine")
    aligner.correct("q", "")
    with pytest.raises(BackendError):
        aligner_of(FlakyBackend(LEAKY)).correct("q", "bad")  # also one that is raised
    aligner_of(FakeBackend(fixed("x")), accept=lambda *_: False).correct("q", "bad")
    counted = {key[1:]: n for key, n in seen.metrics().items() if key[0] == "aligner.corrections"}
    assert counted == {
        (("aligner.outcome", "failed"), ("error.type", "BackendError")): 2,
        (("aligner.outcome", "corrected"),): 1,
        (("aligner.outcome", "kept"), ("aligner.reason", "unchanged")): 1,
        (("aligner.outcome", "skipped"), ("aligner.reason", "empty")): 1,
        (("aligner.outcome", "rejected"), ("aligner.reason", "accept")): 1,
    }
    durations = sum(n for key, n in seen.metrics().items() if key[0] == "aligner.correction.duration")
    assert durations == 6


async def test_retries_fallbacks_and_look_ups_are_counted(seen):
    rules = Resilience(**QUICK, retries=2, fallbacks=[FakeBackend(fixed("fine"))])
    aligner_of(FlakyBackend(*[LEAKY] * 9), resilience=rules).correct("q", "bad")
    cached = aligner_of(FlakyBackend(), cache=Cache())
    for _ in range(3):
        cached.correct("q", "bad")
    list(cached.stream("q", "bad"))
    metrics = seen.metrics()
    assert metrics["aligner.retries", ("error.type", "BackendError")] == 2
    assert metrics["aligner.fallbacks", ("error.type", "BackendError")] == 1
    assert metrics["aligner.cache.lookups", ("aligner.cache.hit", False)] == 1
    assert metrics["aligner.cache.lookups", ("aligner.cache.hit", True)] == 3


# Text -----------------------------------------------------------------------------------------------------------------


async def everything_said(seen, caplog):
    caplog.set_level(logging.DEBUG, "aligner_integrations")
    rules = Resilience(**QUICK, fallbacks=[FlakyBackend(LEAKY)])
    aligner = aligner_of(FlakyBackend(*[LEAKY] * 30), resilience=rules, on_error="keep", cache=Cache())
    aligner.correct("my secret question", "my secret answer")
    await aligner.acorrect("my secret question", "my secret answer")
    list(aligner.stream("my secret question", "my secret answer"))
    aligner_of(FlakyBackend()).correct("my secret question", "my secret bad answer")
    return seen.everything() + caplog.text


async def test_no_text_unless_asked(seen, caplog, monkeypatch):
    monkeypatch.delenv("ALIGNER_LOG_TEXT", raising=False)
    said = await everything_said(seen, caplog)
    assert "A correction failed: BackendError." in said and "corrected (changed) after" in said
    assert "secret" not in said


async def test_text_if_asked(seen, caplog, monkeypatch):
    monkeypatch.setenv("ALIGNER_LOG_TEXT", "1")
    await everything_said(seen, caplog)
    for words in ("my secret question", "my secret bad answer", "my secret good answer"):
        assert words in caplog.text and words in seen.everything()
    assert "the server said" in caplog.text


# Without it -----------------------------------------------------------------------------------------------------------


def test_without_opentelemetry_nothing_is_wrapped(monkeypatch):
    monkeypatch.setattr(telemetry, "instruments", lambda: None)
    backend = FlakyBackend()
    aligner = aligner_of(backend)
    assert aligner.wrapped_backend is backend
    assert aligner.correct("q", "bad").text == "good"


def test_a_missing_package_is_no_error():
    code = """
import sys
sys.modules["opentelemetry"] = None
from aligner_integrations import Aligner, telemetry
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.wrappers.cached import Cache
from aligner_integrations.backends.wrappers.resilient import Resilience
aligner = Aligner(backend=FakeBackend(lambda prompt: "good"), template="paper", resilience=Resilience(), cache=Cache())
print(aligner.correct("q", "bad").text, "".join(aligner.stream("q", "worse")), telemetry.instruments())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "good good None\n"


def test_an_sdk_that_is_set_up_later_gets_them_too():
    code = """
from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
aligner = Aligner(backend=FakeBackend(lambda prompt: "good"), template="paper")
aligner.correct("q", "bad")
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
aligner.correct("q", "bad")
print([span.name for span in exporter.get_finished_spans()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['aligner.complete', 'aligner.correct']\n"


def test_the_traced_backend_is_a_backend(seen):
    aligner = aligner_of(FlakyBackend())
    assert isinstance(aligner.wrapped_backend, Backend)
    assert "TracedBackend(" in repr(aligner.wrapped_backend)


@pytest.mark.parametrize(
    ("answer", "text", "outcome"), [("all fine", "all fine", "kept"), ("bad day", "good day", "corrected")]
)
async def test_a_backend_that_judges_its_streams_still_does(seen, answer, text, outcome):
    aligner = aligner_of(JudgingBackend())
    stream = aligner.stream("q", answer)
    assert ("".join(stream), stream.correction.outcome) == (text, outcome)
    stream = aligner.astream("q", answer)
    assert "".join([piece async for piece in stream]) == text and stream.correction.outcome == outcome
    assert len(seen.named("aligner.stream")) == 2 and not seen.named("aligner.score")
