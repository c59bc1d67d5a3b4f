"""A circuit breaker: a backend that keeps failing is left alone for a while, so that nobody waits for it in vain.

What counts as a failure, and what is done instead, is decided in `resilient.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from aligner_integrations.errors import CircuitOpenError, ConfigurationError
from aligner_integrations.forking import survives_fork

logger = logging.getLogger(__name__)

# Newest calls that are remembered, so that a busy minute does not fill the memory.
_MOST_REMEMBERED = 1000


class Watch:
    """One call under the breaker's eyes: whoever makes it says how it went."""

    failed: bool | None = None
    """None until it is known; a call that is given up before says nothing of the backend."""


class Breaker:
    """Opens when too many calls fail, lets one call try after a pause, and closes when that one succeeds.

    Safe to share between threads, event loops and aligners. The rate is high on purpose: of a backend that fails half of
    the time, retries get nearly every correction, and leaving it alone would get none.

    Args:
        rate: Share of failed calls, from 0 to 1, at which it opens.
        calls: Fewest calls it judges by.
        window: Seconds after which a call no longer counts.
        pause: Seconds it stays open before a call may try.

    Raises:
        ConfigurationError: A number that makes no sense.
    """

    def __init__(self, *, rate: float = 0.9, calls: int = 20, window: float = 60.0, pause: float = 30.0) -> None:
        if not 0 < rate <= 1 or calls < 1 or window <= 0 or pause <= 0:
            raise ConfigurationError(
                f"A breaker takes a rate above 0 and up to 1, at least 1 call, and seconds above 0; it got rate={rate}, "
                f"calls={calls}, window={window}, pause={pause}."
            )
        self.rate = rate
        self.calls = calls
        self.window = window
        self.pause = pause
        self.begin_anew()
        survives_fork(self)
        self._seen: deque[tuple[float, bool]] = deque()  # (when, failed), oldest first
        self._failures = 0
        self._opened: float | None = None

    def begin_anew(self) -> None:
        """In a forked child nobody holds the lock, and nobody is trying."""
        self._guard = threading.Lock()
        self._trying = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Copies and pickles have the same settings, and start closed."""
        return partial(Breaker, rate=self.rate, calls=self.calls, window=self.window, pause=self.pause), ()

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """closed: calls go through. open: none does. half-open: one may try, or is trying."""
        with self._guard:
            if self._opened is None:
                return "closed"
            return "open" if time.monotonic() < self._opened + self.pause else "half-open"

    def check(self) -> None:
        """Raise CircuitOpenError if a call would be refused now."""
        with self._guard:
            self._refuse()

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Make one call; say on the `Watch` how it went.

        Raises:
            CircuitOpenError: The backend is left alone at the moment.
        """
        with self._guard:
            self._refuse()
            trying = self._trying = self._opened is not None
        watch = Watch()
        try:
            yield watch
        finally:
            with self._guard:
                if trying:
                    self._trying = False
                if watch.failed is not None:
                    self._record(watch.failed, trying)

    def _refuse(self) -> None:
        if self._opened is None:
            return
        left = self._opened + self.pause - time.monotonic()
        if left > 0 or self._trying:
            raise CircuitOpenError(
                f"The backend failed in at least {self.rate:.0%} of its last calls, so it is left alone for now"
                + (f": the next one may try in {left:.1f} s." if left > 0 else "; one call is trying it."),
                retryable=True,
                retry_after=max(left, 0.0) or self.pause,
            )

    def _record(self, failed: bool, trying: bool) -> None:
        now = time.monotonic()
        if self._opened is not None:
            # Calls that began before it opened say nothing new.
            if trying and failed:
                self._opened = now
                logger.warning("The backend still fails: the circuit breaker stays open for %.0f s more.", self.pause)
            elif trying:
                self._opened = None
                logger.warning("The backend answers again: the circuit breaker is closed.")
            return
        self._seen.append((now, failed))
        self._failures += failed
        while self._seen[0][0] < now - self.window or len(self._seen) > _MOST_REMEMBERED:
            self._failures -= self._seen.popleft()[1]
        if failed and len(self._seen) >= self.calls and self._failures >= self.rate * len(self._seen):
            logger.warning(
                "The backend failed in %d of its last %d calls: the circuit breaker opens for %.0f s.",
                self._failures,
                len(self._seen),
                self.pause,
            )
            self._opened = now
            self._seen.clear()
            self._failures = 0
