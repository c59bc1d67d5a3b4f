"""Running an aligner over rows: what each measure begins with."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

CHUNK = 64
"""Answers corrected in one batch."""
SCORED_AT_ONCE = 16

Result = Correction | AlignerError


@dataclass(frozen=True, slots=True)
class Corrected:
    """What an aligner made of rows.

    Attributes:
        results: One a row: the correction, or the error for which there is none.
        seconds: Wall-clock time of all of them, without loading.
    """

    results: Sequence[Result]
    seconds: float

    @property
    def texts(self) -> list[str | None]:
        """The text of each row; None where the aligner failed and there is none."""
        return [result.text if isinstance(result, Correction) else None for result in self.results]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many corrections had which outcome."""
        return dict(Counter(result.outcome if isinstance(result, Correction) else "failed" for result in self.results))

    @property
    def errors(self) -> dict[str, int]:
        """How many rows failed, by type of error; one that was answered by `on_error` counts, too."""
        return dict(Counter(name for result in self.results if (name := failure_of(result)) is not None))


def failure_of(result: Result) -> str | None:
    """Return the name of the error that a row ended in, or None."""
    if not isinstance(result, Correction):
        return type(result).__name__
    return (result.reason or "unknown").partition(":")[0] if result.outcome == "failed" else None


def run(
    aligner: Aligner,
    pairs: Sequence[tuple[str, str]],
    *,
    chunk_size: int = CHUNK,
    on_progress: Callable[[int], None] | None = None,
) -> Corrected:
    """Correct (question, answer) pairs; an error stands in its row's place.

    Args:
        aligner: The aligner; it is loaded first.
        pairs: Questions and answers.
        chunk_size: Answers corrected in one batch.
        on_progress: Called with how many are done.
    """
    aligner.load()  # so that the seconds are those of correcting
    results: list[Result] = []
    started = time.perf_counter()
    for start in range(0, len(pairs), chunk_size):
        # With return_exceptions the list holds errors too, which its type does not say.
        some: Sequence[Result] = aligner.correct_many(pairs[start : start + chunk_size], return_exceptions=True)
        results += some
        if on_progress is not None:
            on_progress(len(results))
    return Corrected(results, time.perf_counter() - started)


def gate_scores(aligner: Aligner, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    """Return the score by which the aligner's gate would decide on each answer; None where there is none.

    It is the probe's, or, without a probe, the largest gap (`Score`).
    """
    if not aligner.backend.can_score:
        return [None] * len(pairs)
    template, backend = aligner.template, aligner.wrapped_backend
    found: list[float | None] = []
    for start in range(0, len(pairs), SCORED_AT_ONCE):
        requests = [
            Request(question, answer, template.render(question, answer), template.completion_prefix)
            for question, answer in pairs[start : start + SCORED_AT_ONCE]
        ]
        for score in backend.score(requests):
            found.append((score.max_gap if score.gate is None else score.gate) if isinstance(score, Score) else None)
    return found
