"""When a correction that is being written is given up."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Stop(Protocol):
    """Asked at every step; a `threading.Event` is one."""

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
        self.deadline = deadline

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def is_set(self) -> bool:
        """Whether to stop here."""
        return self.gone.is_set() or self.late
