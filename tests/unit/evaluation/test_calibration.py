"""Promises are kept: on rows by hand, and over two hundred resplits of simulated ones."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.calibration import Scored, calibrate, read_scored
from aligner_integrations.evaluation.html import render


def scored(*pairs):
    return [Scored(score, worth) for score, worth in pairs]


def test_by_hand():
    # 300 answers; the 10 losses have the lowest scores of what is corrected.
    rows = (
        [Scored(10 + i, 1) for i in range(90)]
        + [Scored(5 + i / 100, -1) for i in range(10)]
        + [Scored(-i, 0) for i in range(200)]
    )
    found = calibrate(rows, 0.06)
    assert found.chosen.threshold < -198  # ten losses in 300 are few enough to correct all
    assert found.chosen.losses == pytest.approx(10 / 300)
    strict = calibrate(rows, 0.01)
    # None of 300 is likely enough with a rate of 1%, one is not: the threshold is the highest score of a loss.
    assert strict.chosen.threshold == pytest.approx(5.09)  # 90 wins are 15 whole steps
    assert (strict.chosen.wins, strict.chosen.losses, strict.wins_kept) == (90 / 300, 0, 1.0)
    assert strict.chosen.corrected == pytest.approx(90 / 300)
    assert strict.chosen.bound == pytest.approx(1 - 0.1 ** (1 / 300))
    assert (found.without.losses, found.without.wins) == (10 / 300, 90 / 300)


def test_too_few_rows_promise_nothing():
    found = calibrate(scored(*[(i, 1) for i in range(44)]), 0.05)
    assert found.chosen is None
    assert "44 rows are too few" in found.reason and "it takes 45 at least" in found.reason
    assert calibrate(scored(*[(i, 1) for i in range(45)]), 0.05).chosen is not None
    with pytest.raises(ConfigurationError, match="too few"):
        found.promise("x")


def test_scores_that_tell_nothing_promise_nothing():
    found = calibrate([Scored(1.0, -1)] * 200 + [Scored(1.0, 1)] * 200, 0.05)
    assert found.chosen is None and "no correction that is better" in found.reason


def test_equal_scores_go_together():
    rows = [Scored(3.0, 1)] * 50 + [Scored(2.0, 1)] * 30 + [Scored(2.0, -1)] * 30 + [Scored(1.0, 0)] * 100
    assert calibrate(rows, 0.05).chosen.threshold == 2.0


def test_the_promise_says_what_on_what_and_when():
    found = calibrate([Scored(float(i), 1) for i in range(100)], 0.05, 0.95)
    promise = found.promise("helpful.jsonl")
    assert (promise["loss_rate_at_most"], promise["confidence"], promise["rows"]) == (0.05, 0.95, 100)
    assert promise["rows_from"] == "helpful.jsonl" and promise["when"].count("-") == 2
    page = render(found.page())
    assert "At most 5.0% of answers are made worse, with 95% confidence." in page and "<svg" in page
    assert "Nothing can be promised" in render(calibrate([Scored(1.0, -1)] * 9, 0.05).page())
    assert json.loads(json.dumps(found.to_dict()))["wins_kept"] == 1.0
    assert len(found.table()) == 3


@pytest.mark.parametrize(("target", "confidence"), [(0, 0.9), (1, 0.9), (0.1, 0), (0.1, 1), (-1, 0.5)])
def test_numbers_that_make_no_sense(target, confidence):
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        calibrate(scored((1.0, 1)), target, confidence)
    with pytest.raises(ConfigurationError, match="no rows"):
        calibrate([], 0.1)


# Settings of the simulation: share of wins and of losses, and how well the score tells the wins (AUC against all else).
SETTINGS = {
    "helpfulness": (0.45, 0.20, 0.75),
    "harmlessness": (0.50, 0.03, 0.85),
    "a strong upstream": (0.30, 0.30, 0.80),
}


def population(rng, count, wins, losses, auc):
    worth = rng.choice([1, -1, 0], p=[wins, losses, 1 - wins - losses], size=count)
    apart = math.sqrt(2) * norm.ppf(auc)  # of two normal distributions with this AUC
    return rng.normal(size=count) + apart * (worth > 0), worth


def best_possible(score, worth, target):
    """Share of the wins that the best threshold for the whole population keeps."""
    order = np.argsort(-score)
    losses = np.cumsum(worth[order] < 0) / len(worth)
    wins = np.cumsum(worth[order] > 0)
    allowed = losses <= target
    return wins[allowed].max(initial=0) / max(1, (worth > 0).sum())


def test_threshold_of_most_lenient_rule():
    assert (
        most_lenient_threshold(np.arange(10.0), np.array([-1] * 10), 0.5) == 7.0
    )  # of 10, at most 2 are lost in 5%, at most 3 in 17%


def most_lenient_threshold(score, worth, target):
    """The lowest threshold that any exact test of one threshold after the other can promise: as many steps as there are losses."""
    allowed = int(binom.ppf(0.1, len(score), target))
    allowed -= binom.cdf(allowed, len(score), target) > 0.1
    losses = np.sort(score[worth < 0])[::-1]
    return losses[allowed] if len(losses) > allowed else -np.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "target"),
    [("helpfulness", 0.05), ("helpfulness", 0.15), ("harmlessness", 0.05), ("a strong upstream", 0.10)],
)
def test_promises_are_kept_on_fresh_data(setting, target):
    rng = np.random.default_rng(len(setting) + int(100 * target))
    score, worth = population(rng, 20_000, *SETTINGS[setting])
    broken, kept, attainable = 0, [], []
    for _ in range(200):
        mine = rng.choice(len(score), 400, replace=False)
        found = calibrate([Scored(float(score[i]), int(worth[i])) for i in mine], target)
        if found.chosen is None:
            continue
        fresh = score > found.chosen.threshold
        fresh[mine] = False
        left = len(score) - len(mine)
        broken += (fresh & (worth < 0)).sum() / left > target
        kept.append((fresh & (worth > 0)).sum() / (worth > 0).sum())
        lenient = score > most_lenient_threshold(score[mine], worth[mine], target)
        attainable.append((lenient & (worth > 0)).sum() / (worth > 0).sum())
    possible = best_possible(score, worth, target)
    assert broken <= 20  # a tenth of 200, at delta = 0.1
    assert len(kept) == 200 or possible < 0.05
    # The best threshold, which nobody knows, keeps more than any test can promise from 400 rows: nine tenths of what it keeps are only
    # possible where a few losses too many cost few wins. What a test can promise is kept in any case.
    if possible >= 0.9:
        assert np.mean(kept) >= 0.9 * possible
    assert np.mean(kept) >= 0.95 * np.mean(attainable)


def test_taking_what_looks_good_breaks_its_promise():
    """Why there is a test at all: the threshold that holds on the rows at hand does not hold on others."""
    rng = np.random.default_rng(5)
    score, worth = population(rng, 20_000, *SETTINGS["helpfulness"])
    broken = 0
    for _ in range(200):
        mine = rng.choice(len(score), 400, replace=False)
        order = mine[np.argsort(-score[mine])]
        allowed = np.cumsum(worth[order] < 0) <= 0.05 * 400
        threshold = score[order][allowed][-1]
        broken += ((score >= threshold) & (worth < 0)).mean() > 0.05
    assert broken > 40


# Files ----------------------------------------------------------------------------------------------------------------


def test_win_rate_files(tmp_path):
    path = tmp_path / "rows.jsonl"
    verdicts = {"won": 1, "lost": -1, "tied": 0, "same": 0, "undecided": -1, "failed": -1}
    path.write_text("".join(json.dumps({"score": 1.5, "verdict": one, "answer": "a"}) + "\n" for one in verdicts))
    assert read_scored(path) == [Scored(1.5, worth, "", "a") for worth in verdicts.values()]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"score": 1}, "its verdict is None"),
        ({"score": None, "verdict": "won"}, "it has no score"),
        ({"score": "1", "verdict": "won"}, "it has no score"),
        ({"score": True, "verdict": "won"}, "it has no score"),
        ({"score": math.inf, "verdict": "won"}, "it has no score"),
    ],
)
def test_rows_that_are_none(tmp_path, row, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigurationError, match=f"line 1: {says}"):
        read_scored(path)
    if row.get("score") is None and "verdict" in row:
        assert read_scored(path, scores=False) == [Scored(0.0, 1)]


def test_a_file_of_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(ConfigurationError, match="holds no rows"):
        read_scored(tmp_path / "rows.jsonl")
