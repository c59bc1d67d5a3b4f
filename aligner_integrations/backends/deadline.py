"""When a request has to be given up, and keeping to it where nothing can interrupt what runs."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol, TypeVar, cast

from aligner_integrations.backends.request import Timeouts

_T = TypeVar("_T")
_END = object()


class Deadline:
    """A point in time at which something is given up.

    Attributes:
        point: The point, of `time.monotonic()`; None: never.
    """

    __slots__ = ("point",)

    def __init__(self, point: float | None) -> None:
        self.point = point

    @classmethod
    def latest(cls, timeouts: Iterable[Timeouts]) -> Deadline:
        """When the last of several requests is given up."""
        points = [limits.deadline for limits in timeouts]
        return cls(None if None in points else max((point for point in points if point is not None), default=None))

    @property
    def left(self) -> float | None:
        """Seconds left, 0 if it has passed; None: as long as it takes."""
        return None if self.point is None else max(0.0, self.point - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether it has passed."""
        return self.left == 0


NEVER = Deadline(None)


class Clock(Deadline):
    """When a request has to be given up: at its deadline, and earlier while its first token has not come.

    Attributes:
        connect: Seconds to reach a server; None: as long as it takes.
    """

    __slots__ = ("_deadline", "_started", "connect")

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__(timeouts.deadline)
        self._started = time.monotonic()
        self.connect = timeouts.connect
        self._deadline = timeouts.deadline
        if timeouts.first_token is not None:
            self._within(timeouts.first_token)

    def token_seen(self) -> None:
        """From here on the deadline alone counts."""
        self.point = self._deadline

    def hurry(self, seconds: float) -> None:
        """What is left to come is of little worth: wait for so long at most."""
        self._within(seconds)
        self._deadline = self.point

    def _within(self, seconds: float) -> None:
        soon = time.monotonic() + seconds
        self.point = soon if self._deadline is None else min(soon, self._deadline)

    @property
    def given(self) -> str:
        """The time there is in all, for messages. It is that of one attempt, which may be less than the correction's."""
        return "no limit" if self.point is None else f"{max(0.0, self.point - self._started):.3g} seconds"

    @property
    def waits_for_token(self) -> bool:
        """Whether it is the first token that is late, if anything is."""
        return self.point != self._deadline


def brief() -> Clock:
    """The time limits of small questions about the server."""
    return Clock(Timeouts(connect=10, deadline=time.monotonic() + 30))


class Stop(Protocol):
    """Asked at every step of a text that is being written; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop here."""


class CallerStop:
    """Stops when the caller has gone, or at the request's deadline.

    Args:
        gone: Set when the caller waits no longer.
        deadline: Point of `time.monotonic()`; None: never.
    """

    def __init__(self, gone: threading.Event, deadline: float | None) -> None:
        self.gone = gone
        self.deadline = Deadline(deadline)

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline.passed

    def is_set(self) -> bool:
        """Whether to stop here."""
        return self.gone.is_set() or self.late


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
