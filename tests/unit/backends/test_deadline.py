"""Time limits, and keeping to them where nothing can be interrupted."""

import contextvars
import threading
import time
from types import SimpleNamespace

import pytest

from aligner_integrations.backends.base import Timeouts
from aligner_integrations.backends.deadline import Clock, in_time, pulled


def soon(seconds=60.0):
    return Clock(Timeouts(deadline=time.monotonic() + seconds))


def test_what_is_left(monkeypatch):
    monkeypatch.setattr("aligner_integrations.backends.deadline.time", SimpleNamespace(monotonic=lambda: 100.0))
    assert Clock(Timeouts()).left is None and not Clock(Timeouts()).waits_for_token
    clock = Clock(Timeouts(first_token=1, deadline=109.0))
    assert clock.left == 1 and clock.waits_for_token
    clock.token_seen()
    assert clock.left == 9 and not clock.waits_for_token
    clock.hurry(3)
    assert clock.left == 3
    late = Clock(Timeouts(first_token=9, deadline=99.0))
    assert late.left == 0 and late.passed and not late.waits_for_token


def test_without_a_limit_nothing_runs_elsewhere():
    assert in_time(threading.get_ident, Clock(Timeouts())) == threading.get_ident()
    assert list(pulled(lambda: iter([1, 2]), Clock(Timeouts()))) == [1, 2]


def test_with_one_the_result_the_error_and_the_context_come_through():
    variable = contextvars.ContextVar("variable")
    variable.set("mine")
    assert in_time(variable.get, soon()) == "mine"
    assert list(pulled(lambda: iter(range(5)), soon())) == list(range(5))

    def broken():
        yield 1
        raise ValueError("x")

    items = pulled(broken, soon())
    assert next(items) == 1
    with pytest.raises(ValueError, match="x"):
        next(items)
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 / 0, soon())


def test_what_is_late_is_not_waited_for():
    """It goes on all the same until it is let go, which is after the end of the waiting."""
    release, done = threading.Event(), []

    def slow():
        yield 1
        done.append(release.wait(60))
        yield 2

    with pytest.raises(TimeoutError):
        in_time(lambda: done.append(release.wait(60)), soon(0.01))
    clock = soon()
    items = pulled(slow, clock)
    assert next(items) == 1
    clock.hurry(0.01)
    with pytest.raises(TimeoutError):
        next(items)
    assert done == []
    release.set()


def test_an_iterator_that_is_left_is_closed():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = pulled(endless, soon())
    next(items)
    items.close()
    assert closed.wait(60)
