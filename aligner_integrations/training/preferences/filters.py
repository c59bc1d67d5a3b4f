"""Which recorded corrections are fit to learn from, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording.records import Record
from aligner_integrations.refusals import declines
from aligner_integrations.training.preferences.near_duplicates import NearDuplicates
from aligner_integrations.visible import is_encodable

Judge = Callable[[Record], bool]
"""Whether a correction may be learnt from; False is its veto."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What is left out.

    Attributes:
        kept: Whether answers that were left alone stay, as good examples (never as preference pairs).
        declined: Whether corrections stay that decline to answer what the upstream had answered.
        max_characters: Longest question, answer and correction together.
        resemblance: From which share of common runs of words on two answers to a question are near duplicates; 1: to the letter only.
        veto: Ids of records that somebody has refused.
        judge: Refuses more of them.
    """

    kept: bool = True
    declined: bool = False
    max_characters: int = 20_000
    resemblance: float = 0.8
    veto: Container[str] = frozenset()
    judge: Judge | None = None

    def __post_init__(self) -> None:
        if not 0 < self.resemblance <= 1:
            raise ConfigurationError(f"resemblance is {self.resemblance!r}; it is a share above 0 and up to 1.")
        if self.max_characters < 1:
            raise ConfigurationError(f"max_characters is {self.max_characters}; it must be at least 1.")


@dataclass(slots=True)
class Filtered:
    """The records that are left, and how many are not, by why.

    Attributes:
        left_out: Why -> how many.
        fit: How many are left.
    """

    left_out: dict[str, int] = field(default_factory=dict)
    fit: int = 0

    def take(self, records: Iterable[Record], filters: Filters) -> Iterator[Record]:
        """Yield the records that are fit to learn from."""
        seen = NearDuplicates(filters.resemblance)
        for record in records:
            why = _unfit(record, filters)
            correction = record.correction
            if why is None and seen.add(f"{correction.question}\n{correction.answer}"):
                why = "near duplicate"
            if why is None and filters.judge is not None and not filters.judge(record):
                why = "judge's veto"  # asked last: it may be slow, or cost something
            if why is None:
                self.fit += 1
                yield record
            else:
                self.left_out[why] = self.left_out.get(why, 0) + 1


def _unfit(record: Record, filters: Filters) -> str | None:
    correction = record.correction
    texts = (correction.question, correction.answer, correction.text)
    if correction.outcome in ("failed", "skipped", "rejected"):
        return correction.outcome
    if record.id in filters.veto:
        return "veto"
    if not all(text.strip() for text in texts):
        return "empty"
    if not all(map(is_encodable, texts)):
        return "no text"
    if correction.outcome == "kept" and not filters.kept:
        return "unchanged"
    if correction.outcome == "corrected" and correction.text.strip() == correction.answer.strip():
        return "unchanged"  # redaction may have made them the same
    if sum(map(len, texts)) > filters.max_characters:
        return "too long"
    if correction.changed and not filters.declined and declines(correction.answer, correction.text):
        return "declined"
    return None
