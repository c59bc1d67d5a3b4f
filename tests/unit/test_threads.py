"""Threads that grow as far as they must, survive a moment without any, and begin anew in a forked child."""

import asyncio
import contextvars
import os
import threading
import time

import pytest

from aligner_integrations import threads
from aligner_integrations.errors import OverloadedError
from aligner_integrations.forking import Lock
from tests.forks import forked

WAIT = 30  # seconds: the end of a test that fails


def test_without_a_limit_work_is_done_here():
    assert threads.run(threading.get_ident, None) == threading.get_ident()
    assert threads.run(threading.get_ident, WAIT) != threading.get_ident()


async def test_an_event_loop_never_does_it():
    assert await threads.arun(threading.get_ident, None) != threading.get_ident()


async def test_what_takes_too_long_is_left_to_itself():
    go, done = threading.Event(), threading.Event()

    def work():
        go.wait(WAIT)
        done.set()

    with pytest.raises(TimeoutError):
        threads.run(work, 0.01)
    with pytest.raises(TimeoutError):
        await threads.arun(work, 0.01)
    go.set()
    assert done.wait(WAIT)


async def test_what_it_raises_is_raised_here():
    def fail():
        raise ValueError("no")

    for seconds in (None, WAIT):
        with pytest.raises(ValueError, match="no"):
            threads.run(fail, seconds)
    with pytest.raises(ValueError, match="no"):
        await threads.arun(fail, None)


def test_any_number_may_wait_for_one_more():
    go = threading.Event()
    waiting = [threads.submit(lambda: go.wait(WAIT)) for _ in range(100)]
    threads.submit(go.set)
    assert all(one.result(WAIT) for one in waiting)


def test_much_short_work_takes_few_threads(monkeypatch):
    monkeypatch.setattr(threads, "_threads", threads._Threads())
    before, seen = set(threading.enumerate()), set()

    def look_up():
        seen.add(threading.current_thread())

    for future in [threads.submit(look_up) for _ in range(2_000)]:
        future.result(WAIT)
    assert len(seen - before) < 200


def test_the_callers_context_travels():
    who = contextvars.ContextVar("who", default="nobody")
    who.set("me")
    assert threads.submit(who.get).result(WAIT) == "me"


@pytest.fixture
def no_thread(monkeypatch):
    """The system has no thread left, as at a container's limit; and no idle one is there to be used again."""
    pool = threads._Threads()
    monkeypatch.setattr(threads, "_threads", pool)

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as peak:
        peak.setattr(threading.Thread, "start", start)
        yield peak


async def test_a_moment_without_threads_is_an_error_of_that_moment(no_thread):
    queue, shared, done = threads.OneByOne(), threads.Shared(lambda: 5), threading.Event()
    for call in (lambda: threads.submit(int), lambda: threads.run(int, 1), lambda: queue.submit(int), shared.begin):
        with pytest.raises(OverloadedError, match="No thread can be started"):
            call()
    no_thread.undo()
    assert threads.submit(int).result(WAIT) == 0 and shared.begin().result(WAIT) == 5
    queue.submit(done.set)
    assert done.wait(WAIT)


def test_what_waits_for_a_thread_that_cannot_be_started_is_told_so(monkeypatch):
    """A thread takes one piece of work, and has to call the next one, which the system has not."""
    pool, go = threads._Threads(), threading.Event()
    monkeypatch.setattr(threads, "_threads", pool)
    queue, done, first = threads.OneByOne(), threading.Event(), threading.Event()
    start, started = threading.Thread.start, []

    def only_one(self):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        with pool._guard:  # what comes while it is on its way waits behind it
            for _ in range(3):
                pool._waiting.append(threads._Work(go.wait))
        start(self)

    with monkeypatch.context() as peak:
        peak.setattr(threading.Thread, "start", only_one)
        begun = threads.submit(first.set)
        waiting = list(pool._waiting)
        assert begun.result(WAIT) is None and first.is_set()
        for one in waiting:
            if one.future is not begun:
                with pytest.raises(OverloadedError, match="No thread can be started"):
                    one.future.result(WAIT)
    go.set()
    queue.submit(done.set)
    assert done.wait(WAIT)


async def test_however_much_other_threads_want_the_loop_has_its_turn_in_between():
    loop, read = asyncio.get_running_loop(), []
    letters = [lambda i=i: read.append(i) for i in range(2_500)]
    thread = threading.Thread(target=lambda: [threads.tell(loop, letter) for letter in letters])
    thread.start()
    thread.join()  # the loop stands still meanwhile, and they pile up
    turns = 0
    while len(read) < 2_500:
        await asyncio.sleep(0)
        turns += 1
        assert len(read) <= 1_000 * turns
    assert read == list(range(2_500))


def test_one_by_one_in_order_whatever_one_comes_to(caplog):
    queue, done, end = threads.OneByOne(), [], threading.Event()
    for i in range(100):
        queue.submit(lambda i=i: done.append(i))
        queue.submit(lambda i=i: done.append(1 / (i % 2)))
    queue.submit(end.set)
    assert end.wait(WAIT)
    assert [i for i in done if isinstance(i, int)] == list(range(100)) and len(done) == 150
    assert "in the background failed" in caplog.text


def test_shared_work_is_done_once_and_then_anew():
    go, calls = threading.Event(), []

    def work():
        calls.append(go.wait(WAIT))
        return len(calls)

    shared = threads.Shared(work)
    first, second = shared.begin(), shared.begin()
    assert first is second
    go.set()
    assert threads.wait(first, WAIT) == 1
    assert threads.wait(shared.begin(), WAIT) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_threads_locks_and_queues_of_its_own():
    go, queue, lock, again = threading.Event(), threads.OneByOne(), Lock(), Lock(threading.RLock)
    shared = threads.Shared(lambda: go.wait(WAIT))
    queue.submit(lambda: go.wait(WAIT))
    shared.begin()
    idle = threads.submit(int)
    idle.result(WAIT)

    def child():
        done = threading.Event()
        queue.submit(done.set)
        go.set()
        with lock, again, again:
            pass
        return done.wait(WAIT) and threads.run(lambda: 3, WAIT) == 3 and shared.begin().result(WAIT)

    with lock, again:
        holder = threading.Event()
        other = Lock()

        def hold():
            with other:
                holder.set()
                go.wait(WAIT)

        threads.submit(hold)
        assert holder.wait(WAIT)

        def child_of_holder():
            with other:  # held by a thread that is not here
                return child()

        assert forked(child_of_holder)
    go.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_waits_for_what_cannot_be_forgotten():
    lock, began, done = Lock(forks_wait=True), threading.Event(), []

    def work():
        with lock:
            began.set()
            time.sleep(0.2)
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(WAIT)

    def child():
        with lock:
            return done == ["work"]

    assert forked(child)
    with lock:  # the parent's own is free again
        thread.join(WAIT)


async def test_cancelling_one_that_waits_leaves_the_others_waiting():
    go = threading.Event()
    shared = threads.Shared(lambda: go.wait(WAIT))
    tasks = [asyncio.create_task(threads.awaited(shared.begin(), WAIT)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [True, True]
