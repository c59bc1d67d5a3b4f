"""The seam: limits of a completion, and the public fake."""

import math
import re

import pytest
from IPython.lib.pretty import pretty

from aligner_integrations.backends.base import Backend, Completion, FakeBackend, Request, Score, TokenScore
from aligner_integrations.backends.limit import completion_limit
from aligner_integrations.errors import AnswerTooLongError, BackendError, EmptyCorrectionError
from tests.unit.support import fixed, score_of


@pytest.mark.parametrize(
    ("window", "prompt", "answer", "requested", "limit"),
    [
        (None, 10, 5, None, 320),
        (None, 10, 200, None, 464),
        (2048, 100, 200, None, 464),
        (500, 100, 200, None, 400),
        (2048, 100, 200, 50, 50),
        (120, 100, 19, 50, 20),
        (None, 10, 5, 1, 1),
    ],
)
def test_completion_limit(window, prompt, answer, requested, limit):
    assert completion_limit(window, prompt, answer, requested) == limit


def test_the_answer_and_its_end_token_must_fit():
    assert completion_limit(120, 100, 19, None) == 20
    with pytest.raises(AnswerTooLongError, match="window of 119 tokens"):
        completion_limit(119, 100, 19, None)


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


def test_the_fake_is_a_backend():
    assert isinstance(FakeBackend(fixed("x")), Backend)


@pytest.mark.parametrize("text", ["one two", "  one\n two  ", "one", "", "  "])
async def test_the_fake_streams_whole_words(text):
    backend, request = FakeBackend(fixed(text)), Request("q", "a", "prompt")
    pieces = list(backend.stream(request))
    assert "".join(pieces) == (text if text.strip() else "")
    assert len(pieces) == len(text.split())
    assert [piece async for piece in backend.astream(request)] == pieces


async def test_a_fake_that_raises_gives_that_request_its_error():
    def fn(prompt):
        if prompt == "1":
            raise KeyError("no")
        if prompt == "2":
            raise EmptyCorrectionError("nothing")
        return "fine"

    requests = [Request("q", "a", str(i)) for i in range(3)]
    backend = FakeBackend(fn)
    for results in (backend.complete(requests), await backend.acomplete(requests)):
        assert results[0] == Completion("fine", "stop")
        assert isinstance(results[1], BackendError)
        assert isinstance(results[1].__cause__, KeyError)
        assert isinstance(results[2], EmptyCorrectionError)


async def test_the_fake_has_no_score():
    backend = FakeBackend(fixed("x"))
    with pytest.raises(BackendError, match="no score"):
        backend.score([])
    with pytest.raises(BackendError, match="no score"):
        await backend.ascore([])
