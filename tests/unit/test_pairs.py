"""What a list of questions and answers may look like, and what is no such list."""

from typing import NamedTuple

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.correction import Correction
from aligner_integrations.errors import InvalidTextError


class Row(NamedTuple):
    question: str
    answer: str


@pytest.fixture
def aligner():
    """Says which question and answer it was asked about."""
    return Aligner(backend=FakeBackend(lambda prompt: prompt), template="{question}|{answer}")


@pytest.mark.parametrize(
    "rows",
    [
        [("q1", "a1"), ("q2", "a2")],
        [["q1", "a1"], Row("q2", "a2")],
        [{"question": "q1", "answer": "a1"}, {"answer": "a2", "id": 7, "question": "q2"}],
        ({"question": f"q{n}", "answer": f"a{n}"} for n in (1, 2)),
        zip(["q1", "q2"], ["a1", "a2"], strict=True),
    ],
)
async def test_pairs_and_rows(aligner, rows):
    rows = list(rows)
    for corrections in (aligner.correct_many(iter(rows)), await aligner.acorrect_many(iter(rows))):
        assert [(c.question, c.answer, c.text) for c in corrections] == [
            ("q1", "a1", "q1|a1"),
            ("q2", "a2", "q2|a2"),
        ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["ok", "no"], "Row 0 is a str; each row is"),
        ([("q", "a"), ("q", "a", "c")], "Row 1 is a tuple of 3"),
        ([("q",)], "Row 0 is a tuple of 1"),
        ([{"question": "q", "response": "a"}], "Row 0 has no answer; its keys are 'question', 'response'"),
        ([{}], "Row 0 has no question and no answer; its keys are none"),
        ([b"ok"], "Row 0 is a bytes;"),
        ([{"q", "a"}], "Row 0 is a set"),
        ([7], "Row 0 is a int"),
        ({"question": "q", "answer": "a"}, "got one dict"),
        ("ok", "got one str"),
        ([Correction("q", "a", "a", "kept")], "Row 0 is a Correction"),
    ],
)
@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_what_has_another_shape_is_refused_before_anything_is_corrected(rows, words, return_exceptions):
    asked = []
    aligner = Aligner(
        backend=FakeBackend(lambda prompt: asked.append(prompt) or "x"), template="paper", on_error="keep"
    )
    with pytest.raises(InvalidTextError, match=words):
        aligner.correct_many(rows, return_exceptions=return_exceptions)
    with pytest.raises(InvalidTextError, match=words):
        await aligner.acorrect_many(rows, return_exceptions=return_exceptions)
    assert asked == []


def test_a_wrong_value_in_a_row_of_the_right_shape_is_the_trouble_of_that_row(aligner):
    good, bad = aligner.correct_many(
        [{"question": "q", "answer": "a"}, {"question": "q", "answer": None}], return_exceptions=True
    )
    assert good.text == "q|a"
    assert isinstance(bad, InvalidTextError) and "str and NoneType" in str(bad)
