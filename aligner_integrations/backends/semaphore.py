"""A limit on what runs at once: first come, first served, for threads and event loops together.

`threading.Semaphore` knows no event loop, `asyncio.Semaphore` no thread, and neither of them knows a queue's order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import Future
from types import TracebackType

from aligner_integrations.forking import survives_fork
from aligner_integrations.threads import awaited


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
        self._waiting: OrderedDict[Future[None], None] = OrderedDict()
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
        place = self._queue_up()
        try:
            place.result(timeout)
        except TimeoutError:
            self._leave(place)
            return False
        except BaseException:  # an interrupted thread
            self._leave(place)
            raise
        return True

    async def aacquire(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the twin of acquire
        """`acquire` without blocking the event loop."""
        place = self._queue_up()
        if place.done():
            return True
        try:
            async with asyncio.timeout(timeout):
                await awaited(place)
        except TimeoutError:
            self._leave(place)
            return False
        except BaseException:  # a cancelled task
            self._leave(place)
            raise
        return True

    def release(self) -> None:
        """Give a slot back: to whoever has waited longest."""
        with self._guard:
            while self._waiting:
                place, _ = self._waiting.popitem(last=False)
                if place.set_running_or_notify_cancel():
                    place.set_result(None)
                    return
            self._free = min(self.count, self._free + 1)  # a fork may have freed it already

    def _queue_up(self) -> Future[None]:
        place: Future[None] = Future()
        with self._guard:
            if self._free:
                self._free -= 1
                place.set_running_or_notify_cancel()
                place.set_result(None)
            else:
                self._waiting[place] = None
        return place

    def _leave(self, place: Future[None]) -> None:
        with self._guard:
            self._waiting.pop(place, None)
        # Its turn may have come at the very moment it gave up waiting.
        if not place.cancel():
            self.release()

    def __enter__(self) -> None:
        """Wait for a slot."""
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self.release()
