"""Time limits, and keeping to them where nothing can be interrupted."""

import contextvars
import threading
import time

import pytest

from aligner_integrations.backends.base import Timeouts
from aligner_integrations.backends.deadline import Clock, in_time, pulled


def soon(seconds=0.1):
    return Clock(Timeouts(deadline=time.monotonic() + seconds))


def test_what_is_left():
    assert Clock(Timeouts()).left is None and not Clock(Timeouts()).waits_for_token
    clock = Clock(Timeouts(first_token=1, deadline=time.monotonic() + 9))
    assert 0.9 < clock.left <= 1 and clock.waits_for_token
    clock.token_seen()
    assert 8.9 < clock.left <= 9 and not clock.waits_for_token
    late = Clock(Timeouts(first_token=9, deadline=time.monotonic() - 1))
    assert late.left == 0 and late.passed and not late.waits_for_token


def test_without_a_limit_nothing_runs_elsewhere():
    assert in_time(threading.get_ident, Clock(Timeouts())) == threading.get_ident()
    assert list(pulled(lambda: iter([1, 2]), Clock(Timeouts()))) == [1, 2]


def test_with_one_the_result_the_error_and_the_context_come_through():
    variable = contextvars.ContextVar("variable")
    variable.set("mine")
    assert in_time(variable.get, soon(9)) == "mine"
    assert list(pulled(lambda: iter(range(5)), soon(9))) == list(range(5))

    def broken():
        yield 1
        raise ValueError("x")

    items = pulled(broken, soon(9))
    assert next(items) == 1
    with pytest.raises(ValueError, match="x"):
        next(items)
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 / 0, soon(9))


def test_what_is_late_is_not_waited_for():
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        in_time(lambda: release.wait(20), soon())

    def slow():
        yield 1
        release.wait(20)
        yield 2

    items = pulled(slow, soon())
    assert next(items) == 1
    with pytest.raises(TimeoutError):
        next(items)
    assert time.monotonic() - started < 2
    release.set()


def test_an_iterator_that_is_left_is_closed():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = pulled(endless, soon(9))
    next(items)
    items.close()
    assert closed.wait(2)
