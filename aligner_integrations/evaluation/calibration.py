"""A gate with a promise: corrections that are worse than the answer are at most so many. `aligner calibrate`.

A gate corrects an answer if its score is above a threshold. Which threshold keeps the share of answers that a correction made worse
below a target, not only on the rows at hand but on others of the same kind? Taking the one that looks good on them breaks its
promise in a quarter to two fifths of the cases. Here it is Learn-then-Test (Angelopoulos et al., arXiv 2110.01052) with a fixed
sequence: from the strictest threshold down, each one is tested with an exact binomial test, and the first that fails ends it. The
promise then fails with a probability of at most delta = 1 - confidence.

A row without a verdict counts as a loss: a promise must not rest on what is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aligner_integrations._version import __version__
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.evaluation.html import Page, Table
from aligner_integrations.evaluation.html.charts import histogram, lines
from aligner_integrations.jsonl import read_jsonl

_STEPS = 50
"""Thresholds that are tested: one for each fiftieth of the answers. With each score tested, the promise would hang by a thread."""

_VERDICTS = {"won": 1, "lost": -1, "tied": 0, "same": 0, "undecided": -1, "failed": -1}


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer: the score by which a gate decides on it, and what its correction is worth.

    Attributes:
        score: The gate's score; answers above a threshold are corrected.
        worth: 1: the correction is better. -1: worse, or nobody knows. 0: neither.
        question: The question.
        answer: The answer.
        correction: The correction, for a gate that is learnt.
    """

    score: float
    worth: int
    question: str = ""
    answer: str = ""
    correction: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold comes to on the rows at hand.

    Attributes:
        threshold: Answers that score at most this are kept.
        losses: Share of all answers that are corrected and worse for it.
        wins: Share of all answers that are corrected and better for it.
        corrected: Share of all answers that are corrected.
        bound: Highest loss rate that is likely, at the wanted confidence.
    """

    threshold: float
    losses: float
    wins: float
    corrected: float
    bound: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The threshold that keeps a promise, or why there is none.

    Attributes:
        target: Highest loss rate that is wanted.
        confidence: With which probability it is kept.
        rows: How many answers it was learnt from.
        chosen: The threshold with its figures; None: nothing can be promised.
        without: Figures without a gate.
        reason: Why nothing can be promised.
        curve: Figures of all thresholds, from the strictest to none at all.
        scores: Scores of corrections that are better, worse, and neither, for the page; not in `to_dict`.
    """

    target: float
    confidence: float
    rows: int
    chosen: Point | None
    without: Point
    reason: str | None
    curve: Sequence[Point] = field(repr=False)
    scores: dict[str, list[float]] = field(default_factory=dict, repr=False)

    @property
    def versions(self) -> dict[str, str]:
        """What measured."""
        return {"aligner-integrations": __version__}

    @property
    def wins_kept(self) -> float:
        """Which share of the wins without a gate is left, from 0 to 1."""
        return self.chosen.wins / self.without.wins if self.chosen is not None and self.without.wins else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "target": self.target,
            "confidence": self.confidence,
            "rows": self.rows,
            "chosen": None if self.chosen is None else asdict(self.chosen),
            "without": asdict(self.without),
            "wins_kept": self.wins_kept,
            "reason": self.reason,
            "versions": self.versions,
        }

    def promise(self, source: str) -> dict[str, Any]:
        """Return what is written beside a threshold: what was promised, on what, when.

        Raises:
            ConfigurationError: Nothing can be promised.
        """
        if self.chosen is None:
            raise ConfigurationError(self.reason or "Nothing can be promised.")
        return {
            "loss_rate_at_most": self.target,
            "confidence": self.confidence,
            "rows": self.rows,
            "rows_from": source,
            "losses_there": self.chosen.losses,
            "wins_there": self.chosen.wins,
            "when": datetime.now(UTC).date().isoformat(),
            "made_with": f"aligner-integrations {__version__}",
        }

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line a setting."""
        found = [["", "threshold", "corrected", "wins", "losses", f"losses at most ({self.confidence:.0%})"]]
        for name, one in (("with this threshold", self.chosen), ("without a gate", self.without)):
            if one is not None:
                shares = [f"{100 * value:.1f}%" for value in (one.corrected, one.wins, one.losses, one.bound)]
                found.append([name, f"{one.threshold:.3f}" if one is self.chosen else "", *shares])
        return found

    def page(self) -> Page:
        """Return the report as a page."""
        promised = (
            f"At most {self.target:.1%} of answers are made worse, with {self.confidence:.0%} confidence."
            if self.chosen is not None
            else f"Nothing can be promised: {self.reason}"
        )
        marks = {} if self.chosen is None else {"chosen": self.chosen.threshold}
        shown = [one for one in self.curve if math.isfinite(one.threshold)]
        return Page(
            title="A gate with a promise",
            lead=[
                promised,
                f"Learnt from {self.rows} answers by Learn-then-Test with a fixed sequence of exact binomial tests.",
            ],
            tiles=[("wins kept", f"{self.wins_kept:.0%}")] if self.chosen is not None else [],
            tables=[Table("Figures", self.table())],
            charts=[
                lines(
                    "What each threshold comes to, in per cent of all answers",
                    {
                        "wins": [(one.threshold, 100 * one.wins) for one in shown],
                        "losses": [(one.threshold, 100 * one.losses) for one in shown],
                        "losses at most": [(one.threshold, 100 * one.bound) for one in shown],
                    },
                    across="threshold: answers that score at most this are kept",
                    up="per cent",
                    marks=marks,
                ),
                histogram("Scores", self.scores, unit="score"),
            ],
        )


def calibrate(scored: Sequence[Scored], target: float, confidence: float = 0.9) -> Calibration:
    """Find the lowest threshold for which a loss rate can be promised.

    Args:
        scored: Answers with their score and what their correction is worth. Draw them like those the gate is for.
        target: Highest share of all answers that may be corrected and worse for it, from 0 to 1.
        confidence: With which probability this is kept, from 0 to 1.

    Raises:
        ConfigurationError: There are no rows, or a number makes no sense.
        MissingDependencyError: scipy is not installed.
    """
    if not 0 < target < 1 or not 0 < confidence < 1:
        raise ConfigurationError(
            f"The loss rate is {target} and the confidence {confidence}; both are between 0 and 1."
        )
    if not scored:
        raise ConfigurationError("There are no rows to calibrate on.")
    with require("evaluate", "Calibrating needs {missing}", "scipy.stats"):
        from scipy.stats import beta, binom
    delta, total = 1 - confidence, len(scored)
    order = sorted(scored, key=lambda one: -one.score)
    thresholds = sorted({one.score for one in scored}, reverse=True)
    lowest = math.nextafter(thresholds[-1], -math.inf)  # corrects all of them
    counts = []
    at = wins = losses = 0
    for threshold in [*thresholds, lowest]:
        while at < total and order[at].score > threshold:
            wins += order[at].worth > 0
            losses += order[at].worth < 0
            at += 1
        counts.append((threshold, losses, wins, at))
    lost = [one[1] for one in counts]
    bounds = beta.ppf(confidence, [one + 1 for one in lost], [max(total - one, 1e-9) for one in lost])
    curve = [
        Point(threshold, losses / total, wins / total, at / total, float(bound))
        for (threshold, losses, wins, at), bound in zip(counts, bounds, strict=True)
    ]
    tested = [i for i, one in enumerate(counts) if not i or _step(one[3], total) > _step(counts[i - 1][3], total)]
    passed = binom.cdf([lost[i] for i in tested], total, target) <= delta
    # The sequence ends at the first test that fails.
    last = len(tested) if passed.all() else int(passed.argmin())
    chosen = curve[tested[last - 1]] if last else None
    reason = None
    if chosen is None:
        fewest = math.ceil(math.log(delta) / math.log1p(-target))
        reason = (
            f"{total} rows are too few for a loss rate of {target:.1%} at {confidence:.0%} confidence, whatever they hold; "
            f"it takes {fewest} at least."
        )
    elif chosen.wins == 0:
        chosen = None
        reason = (
            f"a loss rate of {target:.1%} at {confidence:.0%} confidence leaves no correction that is better than its answer: the "
            "scores do not tell wins from losses, or there are too few rows."
        )
    kinds = {"better": 1, "worse": -1, "neither": 0}
    scores = {name: [one.score for one in scored if one.worth == worth] for name, worth in kinds.items()}
    return Calibration(target, confidence, total, chosen, curve[-1], reason, curve, scores)


def _step(corrected: int, total: int) -> int:
    return _STEPS * corrected // total


def read_scored(path: Path, *, scores: bool = True) -> list[Scored]:
    """Read a win-rate file: JSON Lines with score and verdict, as `aligner evaluate win-rate` and `rows` leave them.

    Args:
        path: The file.
        scores: Whether each row must have a score; one that has none gets 0.

    Raises:
        ConfigurationError: It cannot be read, or a row has no score or no verdict.
    """
    found = []
    for number, row in read_jsonl(path):
        place = f"{path}, line {number}"
        score, verdict = row.get("score"), row.get("verdict")
        if verdict not in _VERDICTS:
            raise ConfigurationError(f"{place}: its verdict is {verdict!r}; it is one of {', '.join(_VERDICTS)}.")
        if score is None and not scores:
            score = 0.0
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ConfigurationError(
                f"{place}: it has no score, so no gate can be set by it. Let the aligner make the corrections "
                "(--model), so that its scores are there, too."
            )
        texts = [
            text if isinstance(text := row.get(name), str) else "" for name in ("question", "answer", "correction")
        ]
        found.append(Scored(float(score), _VERDICTS[verdict], *texts))
    if not found:
        raise ConfigurationError(f"{path} holds no rows.")
    return found
