"""The event loop on which all that goes to servers runs: one for the process, on a thread of its own.

Threads and event loops alike hand it their work and wait. So there is one set of connections for all of them, nothing ends
with a caller's loop, and each verb of a backend is written once, as a coroutine. Work runs in its caller's context.

Event loops could have connections of their own instead, as each has its own for anything else. 320 tasks against a server
that takes 20 ms, on two busy cores: 1,690 corrections a second through here and 1,840 on their own loop with 64 places
(0.44 and 0.32 ms of CPU), 1,500 and 1,780 with 320. That is not worth a second way, which would have to end with each loop.
A thread that asks alone pays for the way here and back: 0.51 ms a call, where a blocking socket of its own took 0.43.

What lives elsewhere: connections and what is said on them (`http.py`), the verbs (`base.py`).
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from aligner_integrations import threads
from aligner_integrations.errors import AlignerError, BackendError

_T = TypeVar("_T")
_E = TypeVar("_E", bound=BaseException)
_P = ParamSpec("_P")
_END: Any = object()

_caller: contextvars.ContextVar[_Caller | None] = contextvars.ContextVar("caller", default=None)

_starting = threading.Lock()
_running: asyncio.AbstractEventLoop | None = None
kept: set[Any] = set()
"""What belongs to the loop, such as its open connections."""


def the_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; the first call starts it.

    Raises:
        BackendError: The system has no thread left for it.
    """
    global _running
    with _starting:
        if _running is None:
            loop = asyncio.new_event_loop()
            try:
                # A daemon: calls that are under way do not keep the interpreter from its end.
                threading.Thread(target=_run, args=(loop, kept), name="aligner-remote", daemon=True).start()
            except RuntimeError as error:
                loop.close()
                raise BackendError(
                    f"The thread that talks to servers cannot be started: {error}.", retryable=True
                ) from None
            _running = loop
        return _running


def _run(loop: asyncio.AbstractEventLoop, keep: set[Any]) -> None:
    # A forked child has no such thread, so this frame is never left there, and what it names is never freed: nothing in
    # the child closes the parent's connections, or warns that nobody did.
    asyncio.set_event_loop(loop)
    loop.run_forever()
    del keep


def _forget() -> None:
    global _starting, _running, kept
    _starting, _running, kept = threading.Lock(), None, set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# Work -----------------------------------------------------------------------------------------------------------------


def call(work: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what `work(...)` comes to on the loop; this thread waits. Ctrl-C cancels it at once."""
    loop, caller = the_loop(), _Caller()
    try:
        future = asyncio.run_coroutine_threadsafe(_alone(work(*args, **kwargs), caller), loop)
        future.add_done_callback(lambda _: caller.errands.put(None))
        while (errand := caller.wait()) is not None:
            errand()
        return future.result()
    except BaseException:
        # By the caller and not by the future: Ctrl-C may come when the work has begun and the future is not yet here.
        loop.call_soon_threadsafe(caller.leave)
        raise


async def acall(work: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """`call` for another event loop, which is not blocked; cancelling it cancels the work."""
    loop = the_loop()
    future: Future[_T] = Future()
    threads.tell(loop, partial(_begin, _alone(work(*args, **kwargs), None), future, loop))
    try:
        return await threads.awaited(future)
    except asyncio.CancelledError:
        future.cancel()
        raise


def _begin(work: Coroutine[Any, Any, _T], future: Future[_T], loop: asyncio.AbstractEventLoop) -> None:
    task = loop.create_task(work)
    future.add_done_callback(lambda future: threads.tell(loop, task.cancel) if future.cancelled() else None)
    task.add_done_callback(partial(_end, future))


def _end(future: Future[_T], task: asyncio.Task[_T]) -> None:
    if task.cancelled():
        future.cancel()
    error = None if task.cancelled() else task.exception()
    if not future.set_running_or_notify_cancel():  # it was cancelled here, or there, where nobody waits any more
        return
    if error is None:
        future.set_result(task.result())
    else:
        future.set_exception(error)


class _Caller:
    """A thread that waits for work on the loop, runs errands for it meanwhile, and may be interrupted."""

    def __init__(self) -> None:
        self.errands: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.task: asyncio.Task[Any] | None = None
        self._left = False

    def wait(self) -> Callable[[], object] | None:
        """Return the next errand; None: the work is done."""
        while True:
            with suppress(Empty):
                return self.errands.get(timeout=1)  # not for ever: a Ctrl-C just before it would not wake this thread

    def start(self) -> None:
        self.task = asyncio.current_task()
        if self._left:
            raise asyncio.CancelledError

    def leave(self) -> None:
        self._left = True
        if self.task is not None:
            self.task.cancel()


async def _alone(work: Coroutine[Any, Any, _T], caller: _Caller | None) -> _T:
    _caller.set(caller)
    try:
        if caller is not None:
            caller.start()
        return await work
    except AlignerError as error:
        raise bare(error) from None
    finally:
        work.close()


def bare(error: _E) -> _E:
    """Return an error without the frames it came through: they hold keys, prompts, and what servers said of them."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


async def outside(function: Callable[[], _T]) -> _T:
    """Call a function that may take its time, or is the user's: never on the loop.

    It runs in the thread that waits for this work, which knows it, or for an event loop in one of its own.
    """
    if (caller := _caller.get()) is None:
        return await threads.arun(function, None)
    answer: Future[_T] = Future()

    def errand() -> None:
        if answer.set_running_or_notify_cancel():  # else it has become too late for it
            try:
                answer.set_result(function())
            except Exception as error:  # noqa: BLE001 - raised where the answer is waited for
                answer.set_exception(error)

    caller.errands.put(errand)
    return await asyncio.wrap_future(answer)


# Streams --------------------------------------------------------------------------------------------------------------


def read(items: AsyncGenerator[_T, None]) -> Generator[_T, None, None]:
    """Yield what a generator on the loop yields. It works for one item at a time; closing this one closes it.

    A reader that just goes away closes it, too: its loop does that for generators that nobody holds any more.
    """
    loop = the_loop()
    try:
        while (item := call(_next, items)) is not _END:
            yield item
    except GeneratorExit:
        _close(items, loop)
        raise


async def aread(items: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """`read` for another event loop."""
    loop = the_loop()
    try:
        while (item := await acall(_next, items)) is not _END:
            yield item
    except GeneratorExit:
        _close(items, loop)
        raise


async def _next(items: AsyncGenerator[_T, None]) -> _T:
    return await anext(items, _END)


def _close(items: AsyncGenerator[Any, None], loop: asyncio.AbstractEventLoop) -> None:
    if loop is _running:  # a stream of a forked child's parent is the parent's
        asyncio.run_coroutine_threadsafe(_aclose(items), loop)


async def _aclose(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
