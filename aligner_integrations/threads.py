"""Threads for what blocks: look-ups, files, and functions of users, in time, and never on an event loop.

A pool that grows as far as it must: with a fixed number of threads, whoever waits for somebody else's work could take the
last one from it. (The default executor of an event loop has such a number, and belongs to the application.) They are
daemons, so that a function that hangs keeps no interpreter from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from aligner_integrations.errors import OverloadedError
from aligner_integrations.forking import survives_fork

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_IDLE = 10.0
"""Seconds after which a thread with nothing to do ends."""


class _Threads:
    """One line of work, and as many threads as that takes.

    While any work waits, exactly one thread is on its way to it, and it calls the next one before it begins: so nobody waits
    behind work that does not end, and a thousand short look-ups take a few threads and not a thousand.
    """

    def __init__(self) -> None:
        self.begin_anew()
        survives_fork(self)

    def begin_anew(self) -> None:
        """In a forked child there is no thread, and nothing to do."""
        self._guard = threading.Lock()
        self._waiting: deque[_Work] = deque()
        self._idle: list[queue.SimpleQueue[None]] = []
        self._coming = False

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        one = _Work(work)
        with self._guard:
            self._waiting.append(one)
        if one in self._call():
            raise one.refusal
        return one.future

    def _call(self) -> list[_Work]:
        """See that a thread is on its way, if any work waits; return what none can be started for, which has failed."""
        with self._guard:
            if self._coming or not self._waiting:
                return []
            self._coming = True
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(None)
            return []
        try:
            # Not under the guard: an event loop that brings more work would stand still for as long as this takes.
            threading.Thread(target=self._run, daemon=True, name="aligner").start()
        except RuntimeError as error:
            with self._guard:
                self._coming = False
                lost, self._waiting = list(self._waiting), deque()
            for one in lost:
                one.refuse(error)
            return lost
        return []

    def _run(self) -> None:
        inbox: queue.SimpleQueue[None] = queue.SimpleQueue()
        called = True
        while called:
            came = True
            while (work := self._next(inbox, came=came)) is not None:
                came = False
                self._call()  # before it begins, because nobody knows for how long this thread will be busy
                work.run()
                del work  # or it would keep alive what it has worked with
            called = self._called(inbox)

    def _next(self, inbox: queue.SimpleQueue[None], *, came: bool) -> _Work | None:
        """Take what has waited longest; None: nothing does, and this thread can be called at its inbox."""
        with self._guard:
            if came:
                self._coming = False
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(inbox)
            return None

    def _called(self, inbox: queue.SimpleQueue[None]) -> bool:
        while True:
            try:
                inbox.get(timeout=_IDLE)
            except queue.Empty:
                with self._guard:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        return False
                continue  # somebody has taken it just now, and puts the call in
            return True


class _Work:
    """Some work, in its caller's context."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # whoever gives up waiting must not cancel what others wait for

    def run(self) -> None:
        try:
            result = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - raised where the result is taken
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self, error: RuntimeError) -> None:
        self.refusal = OverloadedError(f"No thread can be started at the moment: {error}.", retryable=True)
        self.future.set_exception(self.refusal)


_threads = _Threads()


def submit(work: Callable[[], _T]) -> Future[_T]:
    """Begin some work on another thread, in the caller's context.

    Raises:
        OverloadedError: No thread can be started.
    """
    return _threads.submit(work)


def run(work: Callable[[], _T], seconds: float | None) -> _T:
    """Return `work()`, or stop waiting for it: what nothing can interrupt goes on by itself.

    Args:
        work: What to do.
        seconds: How long it may take; None: as long as it takes, and then it is done on this very thread.

    Raises:
        TimeoutError: It took too long.
        OverloadedError: No thread can be started.
    """
    return work() if seconds is None else wait(submit(work), seconds)


async def arun(work: Callable[[], _T], seconds: float | None) -> _T:
    """`run` for event loops: always on another thread. Cancelling it stops the waiting."""
    return await awaited(submit(work), seconds)


def wait(future: Future[_T], seconds: float | None) -> _T:
    """Return what becomes of some work.

    Raises:
        TimeoutError: It was not done in time.
    """
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # done at the last moment, or it is the work's own
            return future.result()
        raise


# From threads to event loops ------------------------------------------------------------------------------------------


_LETTERS_AT_ONCE = 1_000
"""How many letters of a mailbox are read before its event loop goes on with something else."""


class _Mailbox:
    """What other threads want done on an event loop. However much that is, the loop is woken for it once.

    Waking a loop is a write to a socket, and whoever writes has to wait for the interpreter again after it: done for each
    of hundreds of corrections at a time, that alone takes longer than all else of them.
    """

    def __init__(self) -> None:
        self._letters: deque[tuple[contextvars.Context, Callable[[], object]]] = deque()
        self._woken = False

    def put(self, loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
        # In this order, and in the other one below, so that no letter can lie there while nobody is on the way to it.
        self._letters.append((contextvars.copy_context(), work))
        if not self._woken or loop.is_closed():  # the latter raises
            self._woken = True
            loop.call_soon_threadsafe(self._empty, loop)

    def _empty(self, loop: asyncio.AbstractEventLoop) -> None:
        self._woken = False
        # Letters may come as fast as they are read, and the rest of the loop has its turn in between.
        for _ in range(min(len(self._letters), _LETTERS_AT_ONCE)):
            context, work = self._letters.popleft()
            context.run(work)
        if self._letters and not self._woken:
            self._woken = True
            loop.call_soon(self._empty, loop)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()


def tell(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    """Have an event loop do something soon, from any thread and in the caller's context. It must not raise.

    Raises:
        RuntimeError: The loop is closed.
    """
    if asyncio._get_running_loop() is loop:
        loop.call_soon(work)
    else:
        _mailboxes.setdefault(loop, _Mailbox()).put(loop, work)


async def awaited(future: Future[_T], seconds: float | None = None) -> _T:
    """`wait` without blocking the event loop. Cancelling this leaves the future alone.

    Raises:
        TimeoutError: It was not done in time.
        asyncio.CancelledError: It was cancelled.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        here: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not here.done():
                here.set_result(None)

        def done(_: object) -> None:
            with suppress(RuntimeError):  # nobody is there any more
                tell(loop, wake)

        future.add_done_callback(done)
        await in_time(here, seconds)
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()


async def in_time(turn: asyncio.Future[_T], seconds: float | None) -> _T:
    """Wait for a future of the running loop, which is nobody else's: if it is late, it is done with a TimeoutError.

    As `asyncio.timeout` does, at a quarter of its cost: thousands may wait so, and each object is one for the garbage collector.
    """
    if seconds is None:
        return await turn
    timer = turn.get_loop().call_later(seconds, _late, turn)
    try:
        return await turn
    finally:
        timer.cancel()


def _late(turn: asyncio.Future[Any]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())


class OneByOne:
    """Does work in the order in which it comes, on a thread that lives while there is some."""

    def __init__(self) -> None:
        self.begin_anew()
        survives_fork(self)

    def begin_anew(self) -> None:
        """In a forked child there is nothing to do yet."""
        self._guard = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def submit(self, work: Callable[[], None]) -> None:
        """Do this behind what came before.

        Raises:
            OverloadedError: No thread can be started.
        """
        with self._guard:
            if not self._running:
                submit(self._run).add_done_callback(self._refused)
                self._running = True
            self._waiting.append(work)

    def _refused(self, run: Future[None]) -> None:
        """A thread was on its way, and none could be started after all: the next who submits something tries again."""
        if run.exception() is not None:
            with self._guard:
                self._running = False

    def _run(self) -> None:
        while True:
            with self._guard:
                self._running = bool(self._waiting)
                if not self._running:
                    return
                work = self._waiting.popleft()
            try:
                work()
            except Exception:  # nobody waits for it, and those behind it still want their turn
                logger.exception("Some work in the background failed.")
            del work


class Shared(Generic[_T]):
    """Some work that is done once for all who wait for it at the same time.

    It runs on a thread of its own, so whoever stops waiting takes it from nobody.

    Args:
        work: What to do.
    """

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self.begin_anew()
        survives_fork(self)

    def begin_anew(self) -> None:
        """In a forked child nobody does it."""
        self._guard = threading.Lock()
        self._begun: Future[_T] | None = None

    def begin(self) -> Future[_T]:
        """Return what becomes of it: of what somebody has begun, if that is not done yet."""
        with self._guard:
            if self._begun is None or self._begun.done():
                self._begun = submit(self._work)
            return self._begun
