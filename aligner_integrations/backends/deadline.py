"""When a request has to be given up, and keeping to it where nothing can interrupt what runs."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar, cast

from aligner_integrations.backends.base import Timeouts

_T = TypeVar("_T")
_END = object()


class Clock:
    """When a request has to be given up: at its deadline, and earlier while its first token has not come."""

    __slots__ = ("_deadline", "connect", "point")

    def __init__(self, timeouts: Timeouts) -> None:
        self.connect = timeouts.connect
        self.point = self._deadline = timeouts.deadline
        if timeouts.first_token is not None:
            first = time.monotonic() + timeouts.first_token
            self.point = first if self._deadline is None else min(first, self._deadline)

    def token_seen(self) -> None:
        """From here on the deadline alone counts."""
        self.point = self._deadline

    def hurry(self, seconds: float) -> None:
        """What is left to come is of little worth: wait for so long at most."""
        soon = time.monotonic() + seconds
        self.point = self._deadline = soon if self._deadline is None else min(soon, self._deadline)

    @property
    def waits_for_token(self) -> bool:
        """Whether it is the first token that is late, if anything is."""
        return self.point != self._deadline

    @property
    def left(self) -> float | None:
        """Seconds left; None: as long as it takes."""
        return None if self.point is None else self.point - time.monotonic()


def brief() -> Clock:
    """The time limits of small questions about the server."""
    return Clock(Timeouts(connect=10, deadline=time.monotonic() + 30))


def in_time(work: Callable[[], _T], clock: Clock) -> _T:
    """Return `work()`, or stop waiting for it: a call that nothing can interrupt goes on in a thread of its own.

    Raises:
        TimeoutError: It took too long.
    """
    if clock.left is None:
        return work()
    return next(pulled(lambda: iter([work()]), clock))


def pulled(start: Callable[[], Iterator[_T]], clock: Clock) -> Generator[_T, None, None]:
    """Yield what an iterator gives, in time; closed or late, its thread ends at the next item.

    Raises:
        TimeoutError: An item took too long.
    """
    if clock.left is None:
        yield from start()
        return
    items: queue.Queue[Any] = queue.Queue(1)
    stop = threading.Event()
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(_pull, start, items, stop), daemon=True, name="aligner-llm").start()
    try:
        while True:
            left = clock.left
            try:
                item, error = items.get(timeout=None if left is None else max(left, 0.001))
            except queue.Empty:
                raise TimeoutError from None
            if error is not None:
                raise error
            if item is _END:
                return
            yield cast("_T", item)
    finally:
        stop.set()


def _pull(start: Callable[[], Iterator[Any]], items: queue.Queue[Any], stop: threading.Event) -> None:
    def put(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                items.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return

    iterator: Any = None
    try:
        iterator = start()
        for item in iterator:
            put(item)
            if stop.is_set():
                return
        put(_END)
    except BaseException as error:  # noqa: BLE001 - raised where the items are taken
        put(None, error)
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
