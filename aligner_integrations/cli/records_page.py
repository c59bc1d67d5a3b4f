"""The page of `aligner records --report`: what became of answers, over time, and the newest of them to look at."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_integrations._version import __version__
from aligner_integrations.evaluation.html import MOST_EXAMPLES, Example, Page, Table
from aligner_integrations.evaluation.html.charts import histogram
from aligner_integrations.evaluation.timeline import Timeline

if TYPE_CHECKING:
    from aligner_integrations.recording.records import Record

_MOST_SCORES = 100_000


class RecordsPage:
    """Takes records one by one, and keeps of them what the page shows."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._newest: deque[Record] = deque(maxlen=MOST_EXAMPLES)
        self._scores: deque[float] = deque(maxlen=_MOST_SCORES)

    def add(self, record: Record) -> None:
        """Take one more, the oldest first."""
        self._timeline.add(record)
        self._newest.append(record)
        if record.correction.score is not None:
            self._scores.append(record.correction.score)

    def page(self, source: Path, outcomes: list[list[str]], counted: str) -> Page:
        """Return the page.

        Args:
            source: Where they were recorded.
            outcomes: A header and lines: outcome, reason, records, share.
            counted: A sentence: how many, from when to when, by whom.
        """
        charts = [self._timeline.chart()]
        if self._scores:
            charts.append(histogram("Score of the gate", {"records": list(self._scores)}))
        return Page(
            f"Records of {source.name}",
            [counted],
            [(f"{outcome}{f' ({reason})' if reason else ''}", share) for outcome, reason, _, share in outcomes[1:4]],
            [Table("Outcomes", outcomes)],
            charts,
            [_example(record) for record in reversed(self._newest)],
            "The newest first",
            [f"Made with aligner-integrations {__version__}."],
        )


def _example(record: Record) -> Example:
    correction = record.correction
    facts = {"when": record.when.strftime("%Y-%m-%d %H:%M:%S")}
    if correction.score is not None:
        facts["score"] = f"{correction.score:.2f}"
    for name, value in (("reason", correction.reason), ("request", record.request), ("by", record.model)):
        if value:
            facts[name] = value
    return Example(correction.outcome, correction.question, correction.answer, correction.text, facts)
