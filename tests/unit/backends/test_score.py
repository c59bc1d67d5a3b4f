"""How an aligner judges an answer, and how that is shown."""

import math
import re

import pytest
from IPython.lib.pretty import pretty

from aligner_integrations.backends.score import Score, TokenScore
from tests.unit.support import score_of


def test_marked_tokens():
    answer = "a bad day"
    assert [t.text for t in score_of(answer, marked=["bad"], probe=True).marked(1.0)] == ["bad"]
    assert [t.text for t in score_of(answer, marked=["bad"], probe=False).marked(1.0)] == ["bad"]
    assert score_of(answer, marked=["bad"], probe=True).marked(9.0) == ()


@pytest.mark.parametrize("probe", [True, False])
def test_a_notebook_shows_where_an_aligner_objects(probe):
    score = score_of("a bad <day>", marked=["bad"], probe=probe, objections={"hateful": -1.5})
    shown = score._repr_html_()
    assert re.search(r'title="100%"[^>]*>bad</span>', shown) and "&lt;day&gt;" in shown and pretty(score) in shown
    assert pretty(score) == f"score {9.0 if probe else 0.0}, hateful -1.5"


def test_any_mark_can_be_shown():
    tokens = tuple(
        TokenScore(text, start, start + 2, -1.0, math.inf, mark)
        for text, start, mark in (("ab", 0, -1e9), (" c", 2, math.inf), (" d", 4, -math.inf))
    )
    assert Score(tokens, 0, 0, 0, math.inf, gate=math.inf).to_html().count("<span") == 1
