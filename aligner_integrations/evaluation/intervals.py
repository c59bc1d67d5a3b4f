"""Win rate, loss rate and a judge's liking for a place, with intervals over questions.

The paper's measure is omega = (wins - losses) / (wins + losses + ties) (equation 5). A judge that is asked once, with the
answer always in the same place, mixes it up with how much it likes that place; asked in both orders, that cancels out in the
mean, but draws omega towards zero: if the judge looks at the place alone in a share b of its replies, it says
(1 - b) * omega. b itself shows: it is how much more often the text in one place is preferred, whichever it is. So it is
measured, and divided out. Wins and losses are put right the same way.

Intervals are bootstrapped over questions: all rows and both orders of a question are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligner_integrations.errors import ConfigurationError, require

if TYPE_CHECKING:
    import numpy as np

Vote = int | None
"""1: the correction is better. -1: it is worse. 0: neither. None: there is no verdict."""

RESAMPLES = 2000
_MOST_BIAS = 0.95  # beyond this hardly any verdict is about the texts
_KINDS = (1, 0, -1)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number, and between which two it lies with 95% confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Render as per cent."""
        return f"{100 * self.value:+.1f}% ({100 * self.low:+.1f} to {100 * self.high:+.1f})"

    def share(self) -> str:
        """Render as a share, which has no sign."""
        return f"{100 * self.value:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f})"


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often corrections are better than the answers, and how often worse.

    Attributes:
        omega: (wins - losses) / all, with the judge's liking for a place divided out.
        wins: Share of the corrections that are better, likewise.
        losses: Share that are worse, likewise: what a user pays.
        raw_omega: omega as the judge said it, the mean of both orders.
        bias: How much more often the judge prefers what stands first, from -1 to 1; 0 where it was asked in one order only.
        rows: Corrections that have at least one verdict.
        undecided: Those that have none; they are in no figure above.
        worst: omega if all of these were losses.
        best: omega if all of these were wins.
    """

    omega: Interval
    wins: Interval
    losses: Interval
    raw_omega: Interval
    bias: Interval
    rows: int
    undecided: int
    worst: float
    best: float


def win_rate(
    votes: Sequence[Sequence[Vote]],
    questions: Sequence[str],
    *,
    same: Sequence[bool] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> WinRate:
    """Return win and loss rate of corrections.

    Args:
        votes: For each correction, the verdict where it stood second and the one where it stood first; or one verdict that
            knows no order.
        questions: The question of each.
        same: Which corrections are their answers, so that nobody need be asked: ties, that no liking for a place has touched.
        resamples: How often questions are drawn for the intervals.
        seed: Of the draws.

    Raises:
        ConfigurationError: No correction has a verdict.
        MissingDependencyError: numpy is not installed.
    """
    with require("evaluate", "Intervals need {missing}", "numpy"):
        import numpy as np
    equal = list(same) if same is not None else [False] * len(votes)
    decided = [one or any(vote is not None for vote in row) for row, one in zip(votes, equal, strict=True)]
    if not any(decided):
        raise ConfigurationError("No correction has a verdict, so there is no win rate.")
    orders = max(1, *map(len, votes))
    found = _by_question(votes, questions, equal, orders)
    kinds, numbers = np.unique(found, axis=0, return_counts=True)  # questions that look alike are drawn alike
    draws = np.random.default_rng(seed).multinomial(len(found), numbers / len(found), size=resamples)
    drawn = _figures(draws @ kinds, orders)
    whole = _figures(found.sum(0, keepdims=True), orders)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    one = {
        name: Interval(float(whole[0, i]), float(low[i]), float(high[i]))
        for i, name in enumerate(("omega", "wins", "losses", "raw_omega", "bias"))
    }
    rows, undecided = sum(decided), len(votes) - sum(decided)
    told = one["omega"].value * rows
    return WinRate(
        **one,
        rows=rows,
        undecided=undecided,
        worst=(told - undecided) / len(votes),
        best=(told + undecided) / len(votes),
    )


def _by_question(
    votes: Sequence[Sequence[Vote]], questions: Sequence[str], same: Sequence[bool], orders: int
) -> np.ndarray[Any, Any]:
    """How often each question got each verdict in each order, shape (questions, orders x kinds + 2).

    The last two columns: how many of its corrections are the answer, and how many others have a verdict.
    """
    import numpy as np

    numbers = {question: number for number, question in enumerate(dict.fromkeys(questions))}
    found = np.zeros((len(numbers), orders * len(_KINDS) + 2), dtype=np.int64)
    for row, question, equal in zip(votes, questions, same, strict=True):
        counts = found[numbers[question]]
        if equal:
            counts[-2] += 1
            continue
        counts[-1] += any(vote is not None for vote in row)
        for order, vote in enumerate(row):
            if vote is not None:
                counts[order * len(_KINDS) + _KINDS.index(vote)] += 1
    return found


def _figures(totalled: np.ndarray[Any, Any], orders: int) -> np.ndarray[Any, Any]:
    """omega, wins, losses, raw omega and bias of counts as above, one draw a row; shape (draws, 5)."""
    import numpy as np

    counts = totalled[:, :-2].reshape(len(totalled), orders, len(_KINDS))
    judged = totalled[:, -1] / np.maximum(totalled[:, -1] + totalled[:, -2], 1)
    totals = counts.sum(2)
    asked = totals > 0
    # Within an order first, so that a lost reply favours no place.
    rates = counts / np.maximum(totals, 1)[:, :, None]
    better, _, worse = (rates[:, :, kind].sum(1) / np.maximum(asked.sum(1), 1) for kind in range(len(_KINDS)))
    bias = np.zeros(len(counts))
    if orders == 2:
        # The correction stands second in the first order, and first in the second one.
        preferred = rates[:, :, 0] - rates[:, :, 2]
        bias = np.where(asked.all(1), (preferred[:, 1] - preferred[:, 0]) / 2, 0)
    b = np.minimum(np.abs(bias), _MOST_BIAS)
    omega = ((better - worse) / (1 - b)).clip(-1, 1)
    wins, losses = (((share - b / 2) / (1 - b)).clip(0, 1) for share in (better, worse))
    return np.stack([judged * omega, judged * wins, judged * losses, judged * (better - worse), bias], axis=1)
