"""Where an answer may change."""

import pytest

from aligner_integrations.editable import FEW, SHORT, Editable
from tests.unit.support import score_of

ANSWER = "The printer is upstairs. It is a damn slow one. See `printer.conf` for more."


def editable(answer, marked=(), threshold=1.0, objects=lambda score: False):
    return Editable(answer, threshold, lambda: score_of(answer, marked=list(marked), probe=True), objects)


def texts(found):
    answer = found.answer
    return [answer.text[answer.starts[place.start] : answer.ends[place.end - 1]] for place in found.places]


def test_the_sentence_of_a_marked_word():
    assert texts(editable(ANSWER, ["damn"])) == ["It is a damn slow one."]
    assert texts(editable(f"\n\n  {ANSWER} ", ["damn"])) == ["It is a damn slow one."]


def test_no_mark_and_no_place():
    assert editable(ANSWER).places == []


def test_a_long_sentence_is_open_around_its_mark():
    words = [f"word{number}" for number in range(2 * SHORT)]
    words[SHORT] = "damn"
    (place,) = editable(" ".join(words) + ".", ["damn"]).places
    assert (place.start, place.end) == (SHORT - FEW, SHORT + 1 + FEW)


def test_neighbours_are_one_place():
    assert texts(editable("A damn day. A damn night. A good one.", ["damn"])) == ["A damn day. A damn night."]


def test_what_no_edit_may_touch_is_left_out_at_both_ends():
    assert texts(editable("`rm -rf` is a damn thing to do, see https://a.example/b", ["damn"])) == [
        "is a damn thing to do, see"
    ]


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_all_of_it(threshold):
    """Without a score no sentence is known to be fine; nor where the answer as a whole is objected to."""
    found = editable(ANSWER, threshold=threshold, objects=lambda score: True)
    assert texts(found) == [ANSWER]
    assert (found.judged, found.whole, found.all_over) == ((False,) * 3 if threshold is None else (True,) * 3)


def test_all_sentences_marked_is_all_over():
    assert editable("A damn day. A damn night.", ["damn"]).all_over
    assert not editable("A damn day. A good night.", ["damn"]).all_over


def test_nobody_could_judge():
    found = Editable(ANSWER, 1.0, lambda: None, lambda score: False)
    assert found.places is None and not found.all_over


def test_the_score_is_asked_for_once_and_when_needed():
    asked = []

    def score():
        asked.append(1)
        return score_of(ANSWER, marked=["damn"], probe=True)

    found = Editable(ANSWER, 1.0, score, lambda score: False)
    assert not asked
    assert found.places is found.places and asked == [1]
