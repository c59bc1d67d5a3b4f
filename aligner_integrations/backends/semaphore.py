"""A limit on what runs at once: first come, first served, for threads and event loops together.

`threading.Semaphore` knows no event loop, `asyncio.Semaphore` no thread, and neither of them knows a queue's order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType

from aligner_integrations.forking import survives_fork
from aligner_integrations.threads import in_time, tell

_Wake = Callable[[], object]


class Semaphore:
    """A fair semaphore. One slot makes a fair lock.

    Args:
        count: How many may hold a slot at once.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.begin_anew()
        survives_fork(self)

    def begin_anew(self) -> None:
        """In a forked child nobody holds a slot, and nobody waits for one."""
        self._free = self.count
        self._waiting: OrderedDict[_Wake, None] = OrderedDict()
        self._guard = threading.Lock()

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return self.count - self._free

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for a slot; False if there was none in `timeout` seconds."""
        turn = threading.Lock()
        turn.acquire()
        wake = turn.release
        if self._taken_or_queued(wake):
            return True
        its_turn = False
        try:
            its_turn = turn.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:  # also of an interrupted thread
            if not its_turn:
                self._leave(wake)
        return its_turn

    async def aacquire(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the twin of acquire
        """`acquire` without blocking the event loop."""
        # Thousands may wait here, and each object that one of them holds is one for the garbage collector to walk through:
        # so it is a future of its loop, and not one of threads, which is a dozen objects.
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        wake = partial(tell, loop, partial(_come, turn))
        if self._taken_or_queued(wake):
            return True
        try:
            await in_time(turn, timeout)
        except TimeoutError:
            self._leave(wake)
            return False
        except BaseException:  # a cancelled task
            self._leave(wake)
            raise
        return True

    def release(self) -> None:
        """Give a slot back: to whoever has waited longest."""
        with self._guard:
            while self._waiting:
                wake, _ = self._waiting.popitem(last=False)
                with suppress(RuntimeError):  # an event loop that was closed under those who waited
                    wake()
                    return
            self._free = min(self.count, self._free + 1)  # a fork may have freed it already

    def _taken_or_queued(self, wake: _Wake) -> bool:
        """Take a slot if one is free; else wait for `wake` to be called, which hands one over."""
        with self._guard:
            if self._free:
                self._free -= 1
                return True
            self._waiting[wake] = None
            return False

    def _leave(self, wake: _Wake) -> None:
        """Wait no longer. A slot that came at that very moment goes to the next."""
        with self._guard:
            if wake in self._waiting:
                del self._waiting[wake]
                return
        self.release()

    def __enter__(self) -> None:
        """Wait for a slot."""
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self.release()


def _come(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
