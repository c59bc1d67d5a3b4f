"""Micro-batching: callers at the same time share the passes of one model, each with its own result or error.

Nothing here knows of models. What lives elsewhere: what a caller's items are and how they run together (`scheduling.py`), and
what is run (`backend.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from aligner_integrations.backends.deadline import NEVER, Deadline
from aligner_integrations.errors import OverloadedError
from aligner_integrations.forking import survives_fork
from aligner_integrations.threads import awaited

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Lane(Generic[_Item, _Result]):
    """What one caller waits for."""

    def __init__(self, items: Sequence[_Item]) -> None:
        self.todo = deque(enumerate(items))
        self.results: list[_Result | None] = [None] * len(items)
        self.missing = len(items)
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()  # so that no cancelled caller can cancel it under the worker's hands


class Batcher(Generic[_Item, _Result]):
    """Runs the items of concurrent callers together, on a thread that lives while there is something to do.

    A batch starts when `most` items wait, or `wait` seconds after the first: what comes while one runs is the next. It
    takes an item of each caller in turn, so nobody waits for the end of somebody's thousand.

    Args:
        run: Takes up to `most` items and returns their results in order. What it raises is raised to all callers of the
            batch, so it should return errors as results of those they belong to.
        most: Most items in a batch.
        wait: Seconds that a batch waits to fill up.
        queue: Most callers that wait at once.
    """

    def __init__(
        self, run: Callable[[list[_Item]], list[_Result]], *, most: int = 64, wait: float = 0.002, queue: int = 10_000
    ) -> None:
        self.run = run
        self.most = most
        self.wait = wait
        self.queue = queue
        self.begin_anew()
        survives_fork(self)

    def begin_anew(self) -> None:
        """In a forked child nobody waits, and no thread runs."""
        self._lanes: OrderedDict[_Lane[_Item, _Result], None] = OrderedDict()
        self._items = 0  # in all lanes
        self._changed = threading.Condition()
        self._running = False

    @property
    def waiting(self) -> int:
        """How many callers wait for their items to begin."""
        return len(self._lanes)

    def call(self, items: Sequence[_Item], deadline: Deadline = NEVER) -> list[_Result | None]:
        """Run items and return their results in order; None for those not done at the deadline.

        Args:
            items: What to run.
            deadline: When it is given up.

        Raises:
            OverloadedError: Too many callers wait already.
        """
        lane = self._enter(items)
        try:
            lane.done.result(deadline.left)
        except TimeoutError:
            if lane.done.done():  # it is what `run` raised
                raise
        finally:
            self._leave(lane)
        return list(lane.results)  # the batch may still be running

    async def acall(self, items: Sequence[_Item], deadline: Deadline = NEVER) -> list[_Result | None]:
        """`call` without blocking the event loop; cancelling it takes what has not begun from the queue."""
        lane = self._enter(items)
        try:
            async with asyncio.timeout(deadline.left):
                await awaited(lane.done)
        except TimeoutError:
            if lane.done.done():  # as above
                raise
        finally:
            self._leave(lane)
        return list(lane.results)  # the batch may still be running

    def _enter(self, items: Sequence[_Item]) -> _Lane[_Item, _Result]:
        lane = _Lane[_Item, _Result](items)
        if not items:
            lane.done.set_result(None)
            return lane
        with self._changed:
            if len(self._lanes) >= self.queue:
                raise OverloadedError(
                    f"{self.queue} callers already wait for this model. Send fewer at once, or more of them as one batch.",
                    retryable=True,
                )
            if not self._running:
                try:
                    threading.Thread(target=self._work, name="aligner-batches").start()
                except RuntimeError as error:  # nothing has changed, so the next caller may have more luck
                    raise OverloadedError(
                        f"No thread can be started for a batch at the moment: {error}.", retryable=True
                    ) from None
                self._running = True
            self._lanes[lane] = None
            self._items += len(items)
            if self._items >= self.most:
                self._changed.notify()
        return lane

    def _leave(self, lane: _Lane[_Item, _Result]) -> None:
        with self._changed:
            if lane in self._lanes:
                del self._lanes[lane]
                self._items -= len(lane.todo)

    def _work(self) -> None:
        while batch := self._next():
            try:
                results = self.run([item for _, _, item in batch])
                for (lane, place, _), result in zip(batch, results, strict=True):
                    lane.results[place] = result
            except BaseException as error:  # noqa: BLE001 - it belongs to the callers, and the thread goes on for others
                # A caller's other items may wait still: they leave the queue when it does.
                for lane, _, _ in batch:
                    if not lane.done.done():
                        lane.done.set_exception(error)
                continue
            for lane, _, _ in batch:
                lane.missing -= 1
                if not lane.missing and not lane.done.done():
                    lane.done.set_result(None)

    def _next(self) -> list[tuple[_Lane[_Item, _Result], int, _Item]]:
        """Wait for a batch and take it; an empty one if there is nothing left, which ends the thread."""
        batch: list[tuple[_Lane[_Item, _Result], int, _Item]] = []
        with self._changed:
            # Also after a batch: those whose results it brought come back with their next items within that time.
            start = time.monotonic() + self.wait
            while 0 < self._items < self.most and (left := start - time.monotonic()) > 0:
                self._changed.wait(left)
            while self._lanes and len(batch) < self.most:
                lane, _ = self._lanes.popitem(last=False)
                place, item = lane.todo.popleft()
                batch.append((lane, place, item))
                if lane.todo:
                    self._lanes[lane] = None  # behind the others
            self._items -= len(batch)
            # Under the lock that callers enter with: whoever comes from now on starts another thread.
            self._running = bool(batch)
        return batch
