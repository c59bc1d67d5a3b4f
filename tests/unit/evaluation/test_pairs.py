"""What is judged: rows as they are, and answers and corrections that are made where they are missing."""

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.evaluation.asked import Kept, Model
from aligner_integrations.evaluation.pairs import make_pairs, read_pairs
from aligner_integrations.evaluation.win_rate import Pair
from tests.unit.support import TEMPLATE, ScoringBackend, answer_in, score_of


def rows(*given):
    return read_pairs([(f"row {number}", row) for number, row in enumerate(given)])


def test_rows_that_bring_all(tmp_path):
    given = {
        "question": "q",
        "answer": "a",
        "correction": "c",
        "correct": "x",
        "incorrect": ["y", "z"],
        "score": 1,
        "more": 0,
    }
    with Kept(tmp_path) as kept:
        made = make_pairs(rows(given), kept)
    assert made.pairs == [Pair("q", "a", "c", ("x",), ("y", "z"), 1)]
    assert made.missing == {}


def test_corrections_and_the_gates_scores_are_made_once(tmp_path):
    backend = ScoringBackend(lambda answer: score_of(answer, gap=len(answer)))
    aligner = Aligner(backend=backend, template=TEMPLATE, gate=False)
    given = rows({"question": "q", "answer": "bad"}, {"question": "q", "answer": "very bad"})
    with Kept(tmp_path) as kept:
        first = make_pairs(given, kept, aligner=aligner)
        assert [(one.correction, one.score) for one in first.pairs] == [("good", 3), ("very good", 8)]
        assert make_pairs(given, kept, aligner=aligner) == first
    assert backend.completed == ["bad", "very bad"]


def test_what_fails_is_counted_and_made_again(tmp_path):
    down = [True]

    def fn(prompt):
        if down[0] and "two" in prompt:
            raise BackendError("down")
        return answer_in(prompt)

    aligner = Aligner(backend=FakeBackend(fn), template=TEMPLATE)
    given = rows({"question": "q", "answer": "one"}, {"question": "q", "answer": "two"})
    with Kept(tmp_path) as kept:
        made = make_pairs(given, kept, aligner=aligner)
        assert ([one.answer for one in made.pairs], made.missing) == (["one"], {"correction: BackendError": 1})
        down[0] = False
        assert len(make_pairs(given, kept, aligner=aligner).pairs) == 2


def test_an_upstream_that_says_nothing(tmp_path):
    upstream = Model("up", lambda system: FakeBackend(lambda p: "" if p == "q2" else p.upper()), Resilience(retries=0))
    aligner = Aligner(backend=FakeBackend(answer_in), template=TEMPLATE)
    seen = []
    with Kept(tmp_path) as kept:
        made = make_pairs(
            rows({"question": "q1"}, {"question": "q2"}),
            kept,
            upstream=upstream,
            aligner=aligner,
            on_progress=lambda what, count: seen.append((what, count)),
        )
    assert [one.answer for one in made.pairs] == ["Q1"]
    assert sum(made.missing.values()) == 1
    assert seen[-1] == ("corrections", 1)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"answer": "a"}, "row 0: it has no question"),
        ({"question": 3}, "its question is int"),
        ({"question": "q", "answer": []}, "its answer is list"),
        ({"question": "q", "correct": [1]}, "its correct is no list of texts"),
        ({"question": "q", "score": True}, "its score is True"),
    ],
)
def test_rows_that_do_not_fit_are_named(row, says):
    with pytest.raises(ConfigurationError, match=says):
        rows(row)


def test_nobody_is_there_to_make_it(tmp_path):
    with Kept(tmp_path) as kept:
        with pytest.raises(ConfigurationError, match="1 of 1 rows have no answer"):
            make_pairs(rows({"question": "q"}), kept)
        with pytest.raises(ConfigurationError, match="1 of 1 rows have no correction"):
            make_pairs(rows({"question": "q", "answer": "a"}), kept)
