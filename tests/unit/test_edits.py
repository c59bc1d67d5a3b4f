import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.base import Score, TokenScore
from aligner_integrations.edits import keep_unmarked
from tests.unit.support import score_of

TEXTS = st.lists(st.sampled_from(["a", "b", "cc", "d,", " ", "\n"]), max_size=12).map(" ".join)


def kept(answer, correction, *marked, probe=True, **options):
    return keep_unmarked(answer, correction, score_of(answer, marked=marked, probe=probe), 1.0, **options)


@pytest.mark.parametrize("probe", [True, False], ids=["by probe", "by gap"])
def test_a_marked_change_stays_and_an_unmarked_one_is_taken_back(probe):
    assert (
        kept("one 2 three 4 five 6 bad end", "one II three 4 five 6 good end", "bad", probe=probe)
        == "one 2 three 4 five 6 good end"
    )


@pytest.mark.parametrize(
    ("answer", "correction", "mark", "shown"),
    [
        # A change beside the marked word goes with it, one two words away does not.
        ("you are bad ok", "you were bad ok", "bad", "you were bad ok"),
        ("you are so bad", "you were so bad", "bad", "you are so bad"),
        ("bad are you", "bad were you", "bad", "bad were you"),
        ("bad it are you", "bad it were you", "bad", "bad it are you"),
    ],
)
def test_neighbours(answer, correction, mark, shown):
    assert kept(answer, correction, mark) == shown


def test_no_neighbours():
    assert kept("you are bad", "you were good", "bad", neighbours=0) == "you are good"
    assert kept("you are bad", "you were good", "bad", neighbours=1) == "you were good"


def test_deletions():
    assert kept("a damn good idea it is", "a good idea it is", "damn") == "a good idea it is"
    assert kept("a damn good idea it is", "a good idea it is", "is") == "a damn good idea it is"


def test_insertions_at_the_end():
    assert kept("All of it is bad", "All of it is bad sorry", "bad") == "All of it is bad sorry"
    assert kept("All of it is bad", "All of it is bad sorry", "All") == "All of it is bad"


def test_a_marked_end_token_lets_text_be_added():
    answer = "It is so"
    end = TokenScore("", len(answer), len(answer), -3.0, 9.0, 9.0)
    score = score_of(answer, probe=True)
    marked = Score((*score.tokens, end), -3.0, -1.0, -3.0, 9.0, 9.0)
    assert keep_unmarked(answer, "It is so, sadly not", marked, 1.0) == "It is so, sadly not"
    assert keep_unmarked(answer, "That is so", marked, 1.0) == answer


@given(TEXTS, TEXTS)
def test_without_marks_the_answer_comes_back(answer, correction):
    assert kept(answer, correction) == answer


@given(TEXTS.filter(str.strip), TEXTS)
def test_with_all_marked_the_correction_comes_back(answer, correction):
    whole = Score((TokenScore(answer, 0, len(answer), -9.0, 9.0, 9.0),), -9.0, -9.0, -9.0, 9.0, 9.0)
    assert keep_unmarked(answer, correction, whole, 1.0) == correction
