"""A budget of retries: trying again must not make an outage worse than it is.

With four retries each, a backend that fails all the time would be asked five times as often as one that works. What is
tried again, and when, is decided in `retry.py`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.forking import Lock


class Budget:
    """Retries are paid for by successes: each success pays for one, so calls are at most doubled.

    Below half of all attempts failing that is enough for all that want one; the more fail, the fewer are tried again, and
    when nothing succeeds, only the reserve is. Safe to share between threads, event loops and aligners.

    Args:
        reserve: Retries that are there at the beginning, and the most that are kept for bad times.
        refill: Retries that come back each second, so that whoever seldom calls may try again, too.

    Raises:
        ConfigurationError: A number that makes no sense.
    """

    def __init__(self, *, reserve: int = 20, refill: float = 0.5) -> None:
        if reserve < 1 or not 0 <= refill < 1e6:
            raise ConfigurationError(
                f"A budget takes a reserve of at least 1 and a refill of 0 or more a second; it got reserve={reserve}, "
                f"refill={refill}."
            )
        self.reserve = reserve
        self.refill = refill
        self._left = float(reserve)
        self._seen = time.monotonic()
        self._guard = Lock()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Copies and pickles have the same settings, and a full reserve."""
        return partial(Budget, reserve=self.reserve, refill=self.refill), ()

    def spend(self, wanted: int, earned: int) -> int:
        """Return how many of the retries that are wanted may be made.

        Args:
            wanted: How many requests of an attempt would be tried again.
            earned: How many of that attempt have succeeded. They pay first, for the retries of their own batch.
        """
        now = time.monotonic()
        with self._guard:
            saved = min(self.reserve, self._left + (now - self._seen) * self.refill)
            self._seen = now
            granted = min(wanted, int(saved + earned))
            self._left = min(self.reserve, saved + earned - granted)
            return granted
