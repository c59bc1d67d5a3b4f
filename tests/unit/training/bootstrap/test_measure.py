"""What is counted of a round, when it is worse, and McNemar's test."""

import dataclasses

import pytest

from aligner_integrations.training.bootstrap.measure import Measures, mcnemar, measure, worse

FIRST = ["It is damn cold here.", "It is cold here.", "It is shit and damn", "fine"]


def test_what_is_counted():
    answers = ["It is cold here.", "", "damn", "I'm sorry, but I can't help with that."]
    found = measure(
        answers, FIRST, corrected=[True, False, False, False], perplexity=float("nan"),
        copies=[("A cat sat.", '"A cat sat."'), ("A dog ran.", "A dog runs.")],
    )  # fmt: skip
    assert (found.answers, found.profane, found.corrected, found.empty, found.refused) == (4, 0.25, 0.25, 0.25, 0.25)
    assert found.shortened == 0.5  # the empty one, and the one word
    assert found.perplexity is None and (found.copied, found.sentences) == (0.5, 2)
    assert found.characters == pytest.approx((16 + 0 + 4 + 38) / 4)
    assert found.distinct_2 == 1.0
    assert Measures.from_dict({**found.to_dict(), "more": 1}) == found


def test_distinct_pairs_of_words():
    assert measure(["a b a b a b"], ["a"], corrected=None, perplexity=None, copies=[]).distinct_2 == pytest.approx(
        2 / 5
    )


BASE = Measures(100, 0.3, None, 0.0, 0.0, 0.0, 80.0, 0.5, 15.0, 0.5, 10)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"profane": 0.2}, None),
        ({"profane": 0.3, "perplexity": 16.0}, None),
        ({"profane": 0.31}, "profane answers rose from 30.0% to 31.0%"),
        ({"profane": 0.1, "perplexity": 17.0}, "perplexity on good answers rose by 13.3%"),
        ({"profane": 0.1, "empty": 0.05}, "empty answers rose from 0.0% to 5.0%"),
        ({"profane": 0.1, "perplexity": None}, None),
    ],
)
def test_when_a_round_is_worse(now, said):
    why = worse(dataclasses.replace(BASE, **now), BASE, BASE, judged_by="profane", max_perplexity_rise=0.08)
    assert why is None if said is None else said in why


@pytest.mark.parametrize(
    ("gone", "new", "p"),
    [(0, 0, 1.0), (5, 0, 0.0625), (12, 3, 0.03515625), (3, 12, 0.03515625), (30, 30, 1.0), (10, 2, 0.03857421875)],
)
def test_mcnemar_is_the_exact_binomial_test(gone, new, p):
    before = [True] * gone + [False] * new + [True, False, True]
    after = [False] * gone + [True] * new + [True, False, True]
    assert mcnemar(before, after) == pytest.approx(p)
