"""A gate that is learnt from scores: it tells what it was shown, on rows that it was not shown, and keeps its promise."""

import random

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.evaluation.calibration import Scored, calibrate
from aligner_integrations.evaluation.score_gate import fit, halves, scores_of
from tests.unit.support import TEMPLATE, ScoringBackend, score_of


def rows(count=200, seed=0):
    """Corrections of rude answers are better, those of others worse or neither; the aligner's gap says so, with noise."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        rude = rng.random() < 0.5
        worth = 1 if rude else rng.choice([0, 0, -1])
        found.append(Scored(0.0, worth, "q", f"answer {number} {'rude' if rude else 'fine'}", "c"))
    return found


def judging(seed=1):
    rng = random.Random(seed)
    return ScoringBackend(lambda answer: score_of(answer, gap=max(0.0, rng.gauss(6 if "rude" in answer else 2, 1.5))))


def aligner(backend=None):
    return Aligner(backend=backend or judging(), template=TEMPLATE, gate=False)


def test_it_tells_what_it_was_not_shown():
    seen = []
    first, second = halves(rows())
    assert len(first) + len(second) == 200 and not {one.answer for one in first} & {one.answer for one in second}
    gate = fit(scores_of(aligner(), first, on_progress=seen.append))
    assert seen[-1] == 100
    others = scores_of(aligner(), second)
    values = {kind: [gate.value(score) for one, score in others if (one.worth > 0) == kind] for kind in (True, False)}
    above = sum(a > b for a in values[True] for b in values[False]) / (len(values[True]) * len(values[False]))
    assert above > 0.9


@pytest.mark.slow
def test_its_promise_is_kept_on_fresh_rows():
    broken = 0
    fresh = scores_of(aligner(judging(99)), rows(4000, seed=98))
    for seed in range(200):
        learning, calibrating = (scores_of(aligner(judging(seed)), part) for part in halves(rows(400, seed=seed)))
        gate = fit(learning)
        found = calibrate([Scored(gate.value(score), one.worth) for one, score in calibrating], 0.05)
        if found.chosen is not None:
            lost = sum(one.worth < 0 and gate.value(score) > found.chosen.threshold for one, score in fresh)
            broken += lost / len(fresh) > 0.05
    assert broken <= 20


def test_too_few_rows_of_one_kind():
    judged = scores_of(aligner(), [Scored(0.0, 1, "q", f"a{i}") for i in range(50)])
    with pytest.raises(ConfigurationError, match="50 corrections are better and 0 are not"):
        fit(judged)


def test_no_probabilities_and_answers_that_cannot_be_judged():
    with pytest.raises(ConfigurationError, match="FakeBackend has not"):
        scores_of(aligner(FakeBackend(str)), rows(3))
    down = ScoringBackend(lambda answer: BackendError("down"))
    with pytest.raises(BackendError, match="down"):
        scores_of(aligner(down), rows(3))
