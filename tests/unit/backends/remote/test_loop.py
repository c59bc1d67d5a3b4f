"""The loop on which all that goes to servers runs: for threads and event loops, through forks and to the end of the process."""

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

from aligner_integrations.backends.remote import loop
from aligner_integrations.errors import BackendError
from tests.interrupting import interrupted, needs_timer

variable = contextvars.ContextVar("variable", default="none")
modes = pytest.mark.parametrize("mode", ["sync", "async"])
ROOT = Path(__file__).parents[4]


def run(mode, work, *args):
    return loop.call(work, *args) if mode == "sync" else asyncio.run(loop.acall(work, *args))


def items_of(mode, items):
    if mode == "sync":
        return list(loop.read(items))

    async def go():
        return [item async for item in loop.aread(items)]

    return asyncio.run(go())


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


class Hanging:
    """Work that does not end by itself; tells when it began, and when it was cancelled."""

    def __init__(self):
        self.began, self.ended = threading.Event(), threading.Event()

    async def work(self):
        self.began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.ended.set()

    async def items(self):
        yield 1
        await self.work()


# Work -----------------------------------------------------------------------------------------------------------------


@modes
def test_work_runs_on_one_thread_in_its_callers_context(mode):
    async def work(word):
        return word, variable.get(), threading.current_thread().name

    async def items():
        for _ in range(2):
            yield await work("item")

    variable.set("mine")
    assert run(mode, work, "word") == ("word", "mine", "aligner-remote")
    assert items_of(mode, items()) == [("item", "mine", "aligner-remote")] * 2


@modes
def test_an_error_comes_without_the_frames_of_the_loop(mode):
    async def work():
        secret = "what a server said"
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise BackendError("It failed.") from error

    with pytest.raises(BackendError) as caught:
        run(mode, work)
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in told.stack if frame.filename != __file__]
    assert ours and "server said" not in repr([frame.locals for frame in ours])
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@modes
def test_what_is_done_outside_runs_where_its_caller_waits_or_in_a_thread_of_its_own(mode):
    def where(fail=False):
        if fail:
            raise KeyError("mine")
        return threading.current_thread(), variable.get()

    async def work(fail=False):
        return await loop.outside(lambda: where(fail))

    variable.set("mine")
    thread, value = run(mode, work)
    assert value == "mine" and (thread is threading.current_thread()) is (mode == "sync")
    assert thread.name != "aligner-remote"
    with pytest.raises(KeyError):
        run(mode, work, True)


def test_what_is_to_be_done_outside_is_left_if_it_has_become_too_late():
    begun, go = [], threading.Event()

    async def work():
        first = asyncio.create_task(loop.outside(lambda: go.wait(20)))
        second = asyncio.create_task(loop.outside(lambda: begun.append(1)))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.wait([second])
        go.set()
        await first

    loop.call(work)
    assert not begun


@needs_timer
@pytest.mark.parametrize("kind", ["call", "stream"])
def test_an_interrupt_cancels_the_work(kind):
    hanging = Hanging()
    with interrupted(0.2):
        if kind == "call":
            loop.call(hanging.work)
        else:
            list(loop.read(hanging.items()))
    assert hanging.ended.wait(20)


@pytest.mark.parametrize("kind", ["call", "stream"])
async def test_cancelling_cancels_the_work(kind):
    hanging = Hanging()

    async def read():
        return [item async for item in loop.aread(hanging.items())]

    task = asyncio.ensure_future(loop.acall(hanging.work) if kind == "call" else read())
    await asyncio.to_thread(hanging.began.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(hanging.ended.wait, 20)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_without_a_thread_the_error_is_one_that_may_pass(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(loop, "_running", None)
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(BackendError, match="can't start new thread") as caught:
        loop.call(Hanging().work)
    assert caught.value.retryable


# Streams --------------------------------------------------------------------------------------------------------------


class Counting:
    """A generator that counts what it has made, and tells when it is over."""

    def __init__(self):
        self.made, self.over = 0, threading.Event()

    async def items(self):
        try:
            while True:
                self.made += 1
                yield self.made
        finally:
            self.over.set()


@modes
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_stream_is_made_as_it_is_read_and_ends_with_its_reader(mode, how):
    counting = Counting()
    if mode == "sync":
        stream = loop.read(counting.items())
        assert [next(stream) for _ in range(3)] == [1, 2, 3]
        if how == "closed":
            stream.close()
        stream = None
    else:

        async def go():
            stream = loop.aread(counting.items())
            assert [await anext(stream) for _ in range(3)] == [1, 2, 3]
            if how == "closed":
                await stream.aclose()

        asyncio.run(go())
    gc.collect()
    assert counting.over.wait(20) and counting.made == 3


@modes
def test_an_error_ends_a_stream(mode):
    async def items():
        yield 1
        raise BackendError("It broke.")

    with pytest.raises(BackendError, match="It broke"):
        items_of(mode, items())


def test_a_stream_that_is_never_read_never_begins():
    counting = Counting()
    loop.read(counting.items()).close()
    assert counting.made == 0


# Whole lives ----------------------------------------------------------------------------------------------------------

LIVES = {
    "forked": "child good good\nchild word \nended with 7\nparent word  word  good\n",
    "fork": "child good good\nended with 0\nparent word \n",
    "spawn": "child good good\nended with 0\nparent word \n",
    "ended": "",
    "loops": "at most 3 connections: True\n",
    "left": "all closed: True\n",
}


@pytest.mark.parametrize("life", LIVES)
def test_a_process_gets_through_it_without_a_word(life):
    if sys.platform == "win32" and "fork" in life:
        pytest.skip("needs fork")
    command = [sys.executable, "-W", "error", "-m", "tests.unit.backends.remote.lives", life]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, LIVES[life] + "done\n", "")
