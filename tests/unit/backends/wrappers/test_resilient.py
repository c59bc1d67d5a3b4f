"""Retries, time limits, the breaker, the limit on what runs at once, and fallbacks: on threads, tasks and streams."""

import asyncio
import copy
import logging
import pickle
import threading
import time
from types import SimpleNamespace

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Backend, Completion, FakeBackend
from aligner_integrations.backends.wrappers.breaker import Breaker
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.errors import (
    AnswerTooLongError,
    BackendError,
    CircuitOpenError,
    ConfigurationError,
    EmptyCorrectionError,
    ModelLoadError,
    OverloadedError,
    TruncatedCorrectionError,
)
from tests.interrupting import interrupted_when, needs_timer
from tests.unit.backends.wrappers.flaky import OUTAGE, REFUSED, FlakyBackend
from tests.unit.support import TEMPLATE, ScoringBackend, acorrect, astream, correct, fixed, score_of, stream

QUICK = {"backoff": 0.001, "max_backoff": 0.002}


def flaky(*steps, **options):
    """An aligner and its backend."""
    backend = FlakyBackend(*steps)
    rules = {name: options.pop(name) for name in list(options) if name in vars(Resilience())}
    return Aligner(backend=backend, template=TEMPLATE, resilience=Resilience(**{**QUICK, **rules}), **options), backend


@pytest.fixture(params=[correct, acorrect, stream, astream], ids=lambda f: f.__name__)
def verb(request):
    return request.param


# Retries ------------------------------------------------------------------------------------------------------------


async def test_four_retries_by_default(verb):
    aligner, backend = flaky(*[OUTAGE] * 4)
    assert (await verb(aligner)).text == "It is good."
    assert backend.calls == 5


async def test_after_the_last_retry_the_error_is_that_of_the_backend(verb):
    aligner, backend = flaky(*[OUTAGE] * 9, retries=2)
    with pytest.raises(BackendError, match="down"):
        await verb(aligner)
    assert backend.calls == 3


async def test_kept_answers_say_that_the_aligner_failed(verb):
    aligner, _ = flaky(*[OUTAGE] * 9, retries=1, on_error="keep")
    done = await verb(aligner)
    assert (done.text, done.outcome) == ("It is bad.", "failed")
    assert "BackendError: down" in done.reason


@pytest.mark.parametrize("error", [REFUSED, AnswerTooLongError("long"), TruncatedCorrectionError("cut")])
async def test_what_cannot_get_better_is_not_tried_again(verb, error):
    aligner, backend = flaky(error, error)
    with pytest.raises(type(error)):
        await verb(aligner)
    assert backend.calls == 1


async def test_an_empty_completion_is_tried_again(verb):
    aligner, backend = flaky("", " \n")
    assert (await verb(aligner)).text == "It is good."
    assert backend.calls == 3


async def test_completions_that_stay_empty_are_that_error(verb):
    aligner, backend = flaky(*[""] * 9, retries=2)
    with pytest.raises(EmptyCorrectionError):
        await verb(aligner)
    assert backend.calls == 3


async def test_a_cut_completion_is_no_outage():
    backend = FakeBackend(fixed(""))
    backend.complete = lambda requests: [Completion("", "length")]
    with pytest.raises(TruncatedCorrectionError):
        Aligner(backend=backend, template=TEMPLATE, resilience=Resilience(**QUICK)).correct("q", "a")


async def test_retry_after_is_waited_for(verb):
    aligner, _ = flaky(BackendError("busy", retryable=True, retry_after=0.2))
    started = time.monotonic()
    await verb(aligner)
    assert time.monotonic() - started >= 0.2


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(verb):
    """Half an hour or an hour would be more than a test may take."""
    aligner, backend = flaky(BackendError("busy", retryable=True, retry_after=3600), deadline=1800)
    with pytest.raises(BackendError, match="busy") as caught:
        await verb(aligner)
    assert caught.value.retry_after == 3600
    assert backend.calls == 1


def test_waits_are_random_and_double(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "aligner_integrations.backends.wrappers.retry.random.uniform", lambda low, high: asked.append((low, high)) or 0
    )
    aligner, _ = flaky(*[OUTAGE] * 4, backoff=0.1, max_backoff=0.3)
    aligner.correct("q", "It is bad.")
    assert asked == [(0, 0.1), (0, 0.2), (0, 0.3), (0, 0.3)]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_only_what_failed_is_tried_again(asynchronous):
    class SecondFails(FlakyBackend):
        def _results(self, step, requests):
            results = super()._results(step, requests)
            return [
                OUTAGE if request.answer == "b" and self.calls < 3 else r
                for request, r in zip(requests, results, strict=True)
            ]

    backend = SecondFails()
    aligner = Aligner(backend=backend, template=TEMPLATE, resilience=Resilience(**QUICK))
    pairs = [("q", "a"), ("q", "b"), ("q", "bad")]
    done = await aligner.acorrect_many(pairs) if asynchronous else aligner.correct_many(pairs)
    assert [c.text for c in done] == ["a", "b", "good"]
    assert [[r.answer for r in requests] for requests in backend.requests] == [["a", "b", "bad"], ["b"], ["b"]]


async def test_scores_are_tried_again():
    scores = [OUTAGE, OUTAGE, score_of("It is bad.", gap=0.0)]
    backend = ScoringBackend(lambda answer: scores.pop(0), gate=1.0)
    aligner = Aligner(backend=backend, template=TEMPLATE, resilience=Resilience(**QUICK))
    assert aligner.correct("q", "It is bad.").reason == "gate"
    scores[:] = [OUTAGE, score_of("It is bad.", gap=2.0)]
    assert (await aligner.acorrect("q", "It is bad.")).text == "It is good."


# Time ---------------------------------------------------------------------------------------------------------------


async def test_requests_carry_the_limits(verb):
    aligner, backend = flaky(timeout=7, connect_timeout=3, first_token_timeout=4, deadline=50)
    started = time.monotonic()
    await verb(aligner)
    limits = backend.requests[0][0].timeouts
    assert (limits.connect, limits.first_token) == (3, 4)
    assert started + 7 <= limits.deadline <= time.monotonic() + 7


async def test_an_attempt_ends_at_the_deadline_of_the_correction(verb):
    aligner, backend = flaky(timeout=90, deadline=50)
    started = time.monotonic()
    await verb(aligner)
    assert started + 50 <= backend.requests[0][0].timeouts.deadline <= time.monotonic() + 50


async def test_without_limits_nothing_is_limited(verb):
    aligner, backend = flaky(timeout=None, deadline=None, connect_timeout=None)
    await verb(aligner)
    limits = backend.requests[0][0].timeouts
    assert (limits.connect, limits.first_token, limits.deadline) == (None, None, None)


async def test_one_deadline_for_scores_rounds_and_retries():
    seen = []

    class Both(ScoringBackend):
        def score(self, requests):
            seen.append(requests[0].timeouts.deadline)
            time.sleep(0.05)
            return super().score(requests)

        def complete(self, requests):
            seen.append(requests[0].timeouts.deadline)
            return [OUTAGE] if len(seen) == 2 else super().complete(requests)

    backend = Both(lambda answer: score_of(answer, gap=2.0), fn=lambda prompt: prompt + "!", gate=1.0)
    Aligner(backend=backend, template=TEMPLATE, rounds=2, resilience=Resilience(**QUICK, timeout=None)).correct(
        "q", "a"
    )
    assert len(seen) == 5 and len(set(seen)) == 1


async def test_a_backend_that_hangs_is_cancelled_and_asked_again():
    never = threading.Event()
    aligner, backend = flaky(never, never, timeout=1)
    assert (await aligner.acorrect("q", "It is bad.")).text == "It is good."
    assert backend.calls >= 3 and backend.running == 0


async def test_nothing_is_tried_after_the_deadline(verb):
    """Else it would be tried a thousand times, and succeed."""
    aligner, backend = flaky(*[OUTAGE] * 1000, retries=1000, deadline=3, backoff=0.05, max_backoff=0.05, breaker=False)
    with pytest.raises(BackendError, match="down"):
        await verb(aligner)
    assert 1 <= backend.calls < 1000


# The limit on what runs at once ---------------------------------------------------------------------------------------


async def test_threads_and_tasks_share_the_limit():
    release = threading.Event()
    aligner, backend = flaky(*[release] * 24, concurrency=3)
    threads = [threading.Thread(target=aligner.correct, args=("q", f"bad {i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    tasks = [asyncio.create_task(aligner.acorrect("q", f"bad {i}")) for i in range(12)]
    while backend.running < 3 or aligner.resilience.slots.waiting < 21:
        await asyncio.sleep(0.001)
    release.set()
    await asyncio.gather(*tasks)
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert backend.most_running == 3
    assert (backend.calls, backend.running) == (24, 0)
    assert (aligner.resilience.slots.held, aligner.resilience.slots.waiting) == (0, 0)


async def test_waiting_for_a_turn_ends_at_the_deadline():
    """The other one is never done."""
    aligner, backend = flaky(concurrency=1, deadline=0.5, timeout=None)
    aligner.resilience.slots.acquire()
    with pytest.raises(OverloadedError, match="1 others"):
        await aligner.acorrect("q", "bad")
    with pytest.raises(OverloadedError):
        await asyncio.to_thread(aligner.correct, "q", "bad")
    assert (backend.calls, aligner.resilience.slots.waiting) == (0, 0)


# Cancelling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["running", "waiting for a turn", "waiting to try again"])
async def test_a_cancelled_task_leaves_nothing_behind(where):
    steps = [OUTAGE] if where == "waiting to try again" else [threading.Event()]
    aligner, backend = flaky(*steps, concurrency=1, backoff=60, max_backoff=60)
    slots = aligner.resilience.slots
    tasks = [asyncio.create_task(aligner.acorrect("q", "bad")) for _ in range(2 if "turn" in where else 1)]
    while backend.calls < 1 or slots.waiting < len(tasks) - 1:
        await asyncio.sleep(0.001)
    for task in reversed(tasks):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (backend.running, slots.held, slots.waiting) == (0, 0, 0)
    backend.steps.clear()
    assert (await aligner.acorrect("q", "bad")).text == "good"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_closed_stream_leaves_nothing_behind(asynchronous):
    aligner, backend = flaky(["It ", "is ", "good."], concurrency=1)
    if asynchronous:
        pieces = aligner.astream("q", "bad")
        assert await anext(pieces) == "It"
        await pieces.aclose()
    else:
        pieces = aligner.stream("q", "bad")
        assert next(pieces) == "It"
        pieces.close()
    assert (backend.running, aligner.resilience.slots.held) == (0, 0)


@needs_timer
@pytest.mark.parametrize("where", ["running", "waiting for a turn", "waiting to try again"])
def test_an_interrupted_thread_leaves_nothing_behind(where):
    step = OUTAGE if "again" in where else threading.Event()
    aligner, backend = flaky(step, concurrency=1, backoff=60, max_backoff=60)
    slots = aligner.resilience.slots
    reached = {
        "running": lambda: backend.running,
        "waiting for a turn": lambda: slots.waiting,
        "waiting to try again": lambda: backend.calls and not slots.held,
    }
    if "turn" in where:
        slots.acquire()
    with interrupted_when(reached[where]):
        aligner.correct("q", "bad")
    if "turn" in where:
        assert slots.waiting == 0
        slots.release()
    assert (backend.running, slots.held, slots.waiting) == (0, 0, 0)
    backend.steps.clear()
    assert aligner.correct("q", "bad").text == "good"


async def test_a_cancelled_try_does_not_keep_the_breaker_open():
    aligner, backend = flaky(OUTAGE, threading.Event(), retries=0, breaker=Breaker(calls=1, pause=0.01))
    with pytest.raises(BackendError, match="down"):
        await aligner.acorrect("q", "bad")
    await asyncio.sleep(0.02)
    task = asyncio.create_task(aligner.acorrect("q", "bad"))
    while backend.calls < 2:
        await asyncio.sleep(0.001)
    with pytest.raises(CircuitOpenError, match="one call is trying"):
        await aligner.acorrect("q", "bad")
    task.cancel()
    await asyncio.wait([task])
    assert (await aligner.acorrect("q", "bad")).text == "good"
    assert aligner.resilience.breaker.state == "closed"


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[stream, astream], ids=lambda f: f.__name__)
def streaming(request):
    return request.param


async def test_a_stream_that_has_shown_something_is_not_tried_again(streaming):
    fallback = FlakyBackend()
    aligner, backend = flaky(["It ", "is ", OUTAGE], fallbacks=[fallback])
    with pytest.raises(BackendError, match="down"):
        await streaming(aligner)
    assert (backend.calls, fallback.calls) == (1, 0)


async def test_a_fallback_that_has_shown_something_is_the_last(streaming):
    first, second = FlakyBackend(["It ", OUTAGE]), FlakyBackend()
    aligner, _ = flaky([OUTAGE], retries=0, fallbacks=[first, second])
    with pytest.raises(BackendError, match="down"):
        await streaming(aligner)
    assert (first.calls, second.calls) == (1, 0)


async def test_a_stream_that_broke_before_its_first_token_may_say_anything(streaming):
    aligner, _ = flaky([OUTAGE], ["", OUTAGE], ["It was."])
    assert (await streaming(aligner)).text == "It was."


# The breaker ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """The breaker's clock, moved by hand."""
    moved = SimpleNamespace(now=0.0, monotonic=lambda: moved.now)
    monkeypatch.setattr("aligner_integrations.backends.wrappers.breaker.time", moved)
    return moved


async def test_the_breaker_opens_and_heals(verb, clock):
    breaker = Breaker(pause=30)
    aligner, backend = flaky(*[OUTAGE] * 21, retries=0, breaker=breaker, on_error="keep")
    for _ in range(20):
        assert (await verb(aligner)).outcome == "failed"
    assert breaker.state == "open"
    refused = await verb(aligner)
    assert (refused.outcome, refused.text, backend.calls) == ("failed", "It is bad.", 20)
    assert refused.reason.startswith("CircuitOpenError: ")
    clock.now += 30
    assert breaker.state == "half-open"
    assert "down" in (await verb(aligner)).reason  # the one that tries fails, so it is open again
    assert (await verb(aligner)).reason.startswith("CircuitOpenError: ")
    clock.now += 30
    assert (await verb(aligner)).text == "It is good."
    assert breaker.state == "closed"
    assert (await verb(aligner)).text == "It is good."


async def test_two_aligners_share_the_breaker_of_their_resilience():
    rules = Resilience(retries=0, breaker=Breaker(calls=3))
    one, other = (Aligner(backend=FlakyBackend(*[OUTAGE] * 3), template=TEMPLATE, resilience=rules) for _ in "12")
    for aligner in (one, other, one):
        with pytest.raises(BackendError, match="down"):
            aligner.correct("q", "a")
    for aligner in (one, other):
        with pytest.raises(CircuitOpenError):
            aligner.correct("q", "a")
    copied = copy.copy(one)
    with pytest.raises(CircuitOpenError):
        copied.correct("q", "a")


async def test_an_open_breaker_says_how_long(clock):
    aligner, _ = flaky(OUTAGE, retries=0, breaker=Breaker(calls=1, pause=30))
    with pytest.raises(BackendError, match="down"):
        aligner.correct("q", "a")
    clock.now += 10
    with pytest.raises(CircuitOpenError, match=r"in 20\.0 s") as caught:
        aligner.correct("q", "a")
    assert caught.value.retryable and caught.value.retry_after == 20


async def test_what_the_answer_is_to_blame_for_opens_no_breaker():
    aligner, _ = flaky(*[AnswerTooLongError("long")] * 30, breaker=Breaker(calls=2), on_overflow="keep")
    for _ in range(30):
        assert "long" in aligner.correct("q", "a").reason
    assert aligner.resilience.breaker.state == "closed"


# Fallbacks ------------------------------------------------------------------------------------------------------------


async def test_a_fallback_answers(verb):
    fallback = Aligner(backend=FakeBackend(lambda prompt: f"<{prompt}>"), template="{answer}|{question}", gate=False)
    aligner, backend = flaky(*[OUTAGE] * 9, retries=1, fallbacks=[fallback])
    done = await verb(aligner)
    assert (done.text, done.outcome, backend.calls) == ("<It is bad.|q>", "corrected", 2)
    if verb in (correct, acorrect):
        assert done.reason == "fallback"


async def test_a_backend_as_fallback_gets_the_same_prompt(verb):
    aligner, _ = flaky(REFUSED, fallbacks=[FakeBackend(lambda prompt: f"<{prompt}>")])
    assert (await verb(aligner)).text == "<Q=q;A=It is bad.;>"


async def test_the_next_fallback_is_asked_if_the_first_fails(verb, caplog):
    lost = Aligner(backend=FlakyBackend(ModelLoadError("secret words")), template=TEMPLATE)
    unknown = Aligner(backend=FakeBackend(fixed("x")))  # no template is known for it
    good = FakeBackend(fixed("It is fine."))
    aligner, _ = flaky(OUTAGE, retries=0, fallbacks=[lost, unknown, good])
    assert (await verb(aligner)).text == "It is fine."
    assert "ModelLoadError" in caplog.text and "UnknownTemplateError" in caplog.text
    assert "secret words" not in caplog.text


async def test_if_all_fail_the_error_is_that_of_the_backend(verb):
    aligner, _ = flaky(OUTAGE, retries=0, fallbacks=[FlakyBackend(REFUSED)])
    with pytest.raises(BackendError, match="down"):
        await verb(aligner)


async def test_a_fallback_is_asked_while_the_breaker_is_open(verb):
    fallback = FakeBackend(fixed("It is fine."))
    aligner, backend = flaky(OUTAGE, retries=0, fallbacks=[fallback], breaker=Breaker(calls=1))
    assert [(await verb(aligner)).text for _ in range(3)] == ["It is fine."] * 3
    assert backend.calls == 1


async def test_a_backend_that_hangs_leaves_its_fallback_time():
    fallback = FlakyBackend("It is fine.")
    aligner, backend = flaky(threading.Event(), deadline=6, timeout=None, fallbacks=[fallback])
    assert (await aligner.acorrect("q", "bad")).text == "It is fine."
    own, others = (one.requests[0][0].timeouts.deadline for one in (backend, fallback))
    assert 0 < others - own <= 3  # half of what was left


async def test_weights_that_cannot_be_had_are_an_outage(verb):
    class Lost(FlakyBackend):
        def _begin(self, requests):
            super()._begin(requests)
            raise ModelLoadError("gone")

    alone = Aligner(backend=Lost(), template=TEMPLATE, resilience=Resilience(**QUICK), on_error="keep")
    with pytest.raises(ModelLoadError):  # as without resilience: on_error is not about this
        await verb(alone)
    helped = Resilience(**QUICK, fallbacks=[FakeBackend(fixed("It is fine."))])
    assert (await verb(Aligner(backend=Lost(), template=TEMPLATE, resilience=helped))).text == "It is fine."


@pytest.mark.parametrize("error", [OUTAGE, ModelLoadError("gone")])
async def test_an_answer_that_nobody_can_judge_goes_to_the_fallback(error):
    backend = ScoringBackend(lambda answer: error, fn=fixed(""), gate=1.0)
    rules = Resilience(**QUICK, retries=1, fallbacks=[FakeBackend(fixed("It is fine."))])
    aligner = Aligner(backend=backend, template=TEMPLATE, resilience=rules)
    assert aligner.correct("q", "It is bad.").text == "It is fine."
    assert (await aligner.acorrect("q", "It is bad.")).text == "It is fine."
    with pytest.raises(type(error)):
        aligner.score("q", "It is bad.")


async def test_a_fallback_refused_by_accept_says_so():
    aligner, _ = flaky(OUTAGE, retries=0, fallbacks=[FakeBackend(fixed("x"))], accept=lambda *_: False)
    done = aligner.correct("q", "It is bad.")
    assert (done.outcome, done.reason, done.text) == ("rejected", "accept", "It is bad.")


# The object -----------------------------------------------------------------------------------------------------------


def test_the_wrapped_backend_is_a_backend():
    aligner, backend = flaky()
    assert isinstance(aligner.wrapped_backend, Backend)
    assert aligner.backend is backend
    assert "FlakyBackend" in repr(aligner.wrapped_backend)


def test_a_pickle_has_the_settings_and_a_breaker_of_its_own():
    rules = Resilience(retries=7, concurrency=3, breaker=Breaker(calls=1, pause=9))
    with pytest.raises(BackendError):
        Aligner(backend=FlakyBackend(REFUSED, OUTAGE), template=TEMPLATE, resilience=rules).correct("q", "a")
    again = pickle.loads(pickle.dumps(rules))  # noqa: S301 - our own
    assert (again.retries, again.slots.count, again.breaker.pause, again.breaker.state) == (7, 3, 9, "closed")
    assert copy.deepcopy(Resilience(breaker=False)).breaker is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"retries": -1}, "retries is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"deadline": 0}, "deadline is 0"),
        ({"timeout": -2.5}, "timeout is -2.5"),
        ({"backoff": float("nan")}, "backoff is nan"),
    ],
)
def test_numbers_that_make_no_sense(wrong, words):
    with pytest.raises(ConfigurationError, match=words):
        Resilience(**wrong)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": 1.1}, {"calls": 0}, {"window": 0}, {"pause": 0}])
def test_a_breaker_that_makes_no_sense(wrong):
    with pytest.raises(ConfigurationError, match="A breaker takes"):
        Breaker(**wrong)


def test_logs_hold_no_text(caplog):
    caplog.set_level(logging.DEBUG)
    aligner, _ = flaky(
        *[BackendError("my secret words", retryable=True)] * 30, on_error="keep", breaker=Breaker(calls=5)
    )
    aligner.correct("my secret question", "my secret answer")
    assert "Attempt 1 failed" in caplog.text and "opens" in caplog.text
    assert "secret" not in caplog.text


# What may not be waited for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [61.0, 1e30])
async def test_a_server_that_wants_to_be_left_alone_for_long_is(verb, asked):
    busy = BackendError("busy", retryable=True, retry_after=asked)
    aligner, backend = flaky(busy, deadline=None)
    with pytest.raises(BackendError, match="busy"):
        await verb(aligner)
    assert backend.calls == 1


@pytest.mark.parametrize("name", ["deadline", "timeout", "connect_timeout", "first_token_timeout", "backoff"])
@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e10, 0, -1])
def test_seconds_that_nobody_can_wait(name, seconds):
    with pytest.raises(ConfigurationError, match=f"{name} is"):
        Resilience(**{name: seconds})


async def test_fallbacks_that_ask_each_other_are_refused(verb):
    one, other = (Aligner(backend=FlakyBackend(REFUSED), template=TEMPLATE) for _ in range(2))
    one.resilience = Resilience(fallbacks=[other])
    other.resilience = Resilience(fallbacks=[FakeBackend(fixed("x")), one])
    for aligner in (one, other):
        with pytest.raises(ConfigurationError, match="round in a circle"):
            await verb(aligner)
    other.resilience = Resilience(fallbacks=[FakeBackend(fixed("x"))])
    assert (await verb(one)).text == "x"
