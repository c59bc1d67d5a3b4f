"""Win rates by hand, and judges whose liking for a place is known: the intervals must hold what they promise."""

import warnings

import numpy as np
import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.intervals import win_rate

OMEGA, WINS, LOSSES = 0.25, 0.45, 0.20


def questions(votes):
    return [str(number) for number in range(len(votes))]


def test_by_hand():
    found = win_rate([[1], [1], [0], [-1], [None]], questions("12345"))
    assert found.omega.value == pytest.approx(1 / 4)
    assert (found.wins.value, found.losses.value) == pytest.approx((2 / 4, 1 / 4))
    assert (found.rows, found.undecided, found.bias.value) == (4, 1, 0)
    assert (found.worst, found.best) == pytest.approx((0 / 5, 2 / 5))
    assert found.omega.low < found.omega.value < found.omega.high


def test_a_judge_that_only_sees_the_place_says_nothing_of_the_texts():
    found = win_rate([[-1, 1]] * 50, questions(range(50)))  # always the first one
    assert found.raw_omega.value == 0
    assert found.bias.value == 1
    assert abs(found.omega.value) <= 1


@pytest.mark.parametrize("place", [1, -1])
def test_bias_is_divided_out(place):
    # 80 of 100 corrections are better. In each order the judge looks at the place alone for the same 20 of each kind.
    votes = [[1, 1]] * 64 + [[-place, place]] * 20 + [[-1, -1]] * 16
    found = win_rate(votes, questions(votes))
    assert found.bias.value == pytest.approx(0.2 * place)
    assert found.raw_omega.value == pytest.approx(0.48)
    assert found.omega.value == pytest.approx(0.6)
    assert (found.wins.value, found.losses.value) == pytest.approx((0.8, 0.2))


def test_a_reply_that_was_lost_favours_no_place():
    votes = [[1, None], [None, -1], [-1, None], [None, 1]] * 10
    found = win_rate(votes, questions(votes))
    assert (found.omega.value, found.bias.value) == (0, 0)
    assert (found.rows, found.undecided) == (40, 0)


def test_rows_of_one_question_are_drawn_together():
    votes = [[1]] * 50 + [[-1]] * 50
    alone = win_rate(votes, questions(votes)).omega
    together = win_rate(votes, [str(number // 25) for number in range(100)]).omega
    assert together.high - together.low > 3 * (alone.high - alone.low)


@pytest.mark.parametrize("votes", [[[1]], [[1, None]], [[None, -1], [None, None]], [[0, 0]] * 3])
def test_few_rows_are_no_error(votes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = win_rate(votes, questions(votes))
    assert -1 <= found.omega.low <= found.omega.value <= found.omega.high <= 1


def test_no_verdict_at_all():
    with pytest.raises(ConfigurationError, match="No correction has a verdict"):
        win_rate([[None, None]], ["q"])


def test_the_same_seed_gives_the_same_interval():
    votes = [[1, 0], [0, -1], [1, 1]] * 20
    assert win_rate(votes, questions(votes)) == win_rate(votes, questions(votes))


def judged(rng, rows, bias, unparsable):
    """Votes of a judge that looks at the place alone in a share of its replies; true wins and losses as above."""
    truth = rng.choice([1, -1, 0], p=[WINS, LOSSES, 1 - WINS - LOSSES], size=rows)
    votes = np.stack([truth, truth], axis=1)
    by_place = rng.random((rows, 2)) < bias
    votes[by_place] = np.broadcast_to([-1, 1], (rows, 2))[by_place]
    lost = rng.random((rows, 2)) < unparsable
    return [
        [None if gone else int(vote) for vote, gone in zip(*row, strict=True)] for row in zip(votes, lost, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [200, 805])
@pytest.mark.parametrize("bias", [0.1, 0.2, 0.3])
def test_intervals_cover_the_truth(rows, bias):
    rng = np.random.default_rng(int(1000 * bias) + rows)
    names = questions(range(rows))
    runs = [win_rate(judged(rng, rows, bias, 0.1), names, resamples=1000, seed=seed) for seed in range(1000)]
    assert np.mean([one.bias.value for one in runs]) == pytest.approx(bias, abs=0.03)
    assert np.mean([one.omega.value for one in runs]) == pytest.approx(OMEGA, abs=0.03)
    assert np.mean([one.losses.value for one in runs]) == pytest.approx(LOSSES, abs=0.03)
    assert np.mean([one.omega.low <= OMEGA <= one.omega.high for one in runs]) >= 0.9
    assert np.mean([one.losses.low <= LOSSES <= one.losses.high for one in runs]) >= 0.9
    if bias >= 0.2:  # what the raw numbers say is not covered, so the division is needed
        assert np.mean([one.raw_omega.low <= OMEGA <= one.raw_omega.high for one in runs]) < 0.9
