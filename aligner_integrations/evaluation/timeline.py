"""What became of answers over time, from what `Aligner(record=...)` kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from aligner_integrations.correction import Outcome
from aligner_integrations.evaluation.html.charts import Chart, over_time
from aligner_integrations.recording import Record

__all__ = ["Timeline"]

_WIDTHS = {
    "second": 1,
    "10 seconds": 10,
    "minute": 60,
    "10 minutes": 600,
    "hour": 3_600,
    "6 hours": 21_600,
    "day": 86_400,
    "week": 604_800,
    "4 weeks": 2_419_200,
}
"""Each is so many times the one before, so that bars can be put together."""


class Timeline:
    """Counts of outcomes over time, in at most `most` bars: a bar is a second, a minute, an hour, a day, as it fits.

    Takes records one by one and forgets them, so that a year of them needs no more memory than a minute.

    Args:
        records: The first ones; `add` takes more.
        most: Bars from the first to the last record.
    """

    def __init__(self, records: Iterable[Record] = (), *, most: int = 60) -> None:
        self._most = most
        self._widths = list(_WIDTHS.items())
        self._counts: Counter[tuple[str, int]] = Counter()  # (outcome, number of the bar)
        self._first = self._last = 0
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Count one more."""
        second = int(record.time // 1)
        self._first = min(self._first, second) if self._counts else second
        self._last = max(self._last, second) if self._counts else second
        self._counts[record.correction.outcome, second // self._width] += 1
        while len(self._widths) > 1 and self._last // self._width - self._first // self._width >= self._most:
            (_, narrow), (_, wide) = self._widths[:2]
            del self._widths[0]
            joined: Counter[tuple[str, int]] = Counter()
            for (outcome, bar), count in self._counts.items():
                joined[outcome, bar * narrow // wide] += count
            self._counts = joined

    def chart(self) -> Chart:
        """Return the plot.

        Raises:
            MissingDependencyError: matplotlib is not installed (extra `evaluate`).
        """
        counts: dict[str, dict[float, int]] = {outcome: {} for outcome in get_args(Outcome)}
        for (outcome, bar), count in self._counts.items():
            counts[outcome][float(bar * self._width)] = count
        return over_time("Outcomes over time (UTC)", counts, width=self._width, up=f"answers per {self._widths[0][0]}")

    @property
    def _width(self) -> int:
        return self._widths[0][1]
