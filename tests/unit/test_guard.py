"""With any text that an aligner may write, what nobody objected to survives to the letter, and guarding twice changes nothing."""

import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aligner_integrations import passages
from aligner_integrations import guard as guards
from aligner_integrations.backends.base import Score, TokenScore
from aligner_integrations.errors import LostTextError
from aligner_integrations.guard import Guard, is_guarded
from aligner_integrations.passages import Passage
from tests.unit.support import score_of

WORDS = ["the", "docs", "are", "here", "a", "bad", "you", "it is", "so,", "no -", "3", "`x = 1`", "https://a.b/c", "me@a.bc"]
PROSE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(lambda words: " ".join(words) + ".")
BETWEEN = st.sampled_from([" ", "\n\n", "\n- ", "\n| ", "\n> ", "\n\n## "])
PROTECTED = re.compile(r"`x = 1`|https://a.b/c|me@a.bc|\b3\b|\||^-(?= )|^>(?= )|^##(?= )", re.MULTILINE)


@st.composite
def answers(draw):
    """Sentences with what is between them."""
    sentences = draw(st.lists(PROSE, min_size=2, max_size=6))
    return "".join(part for sentence in sentences for part in (sentence, draw(BETWEEN))).rstrip(" \n#|->")


@st.composite
def corrections(draw, answer):
    """What an aligner may make of an answer: pieces of it in any order, and words of its own."""
    words = re.findall(r"\s*\S+", answer)
    pieces = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(words)))
        pieces += words[start : start + draw(st.integers(0, len(words)))]
        pieces += [f" {word}" for word in draw(st.lists(st.sampled_from([*WORDS, "good", "."]), max_size=6))]
    return "".join(pieces)


@st.composite
def cases(draw):
    answer = draw(answers())
    return answer, draw(corrections(answer))


def guarded(answer, correction, *marked, size=None, threshold=1.0):
    """What is shown of a correction that comes in pieces of `size` characters."""
    guard = Guard(answer, threshold, lambda: score_of(answer, marked=marked, probe=True))
    size = size or len(correction) or 1
    pieces = [guard.feed(correction[start : start + size]) for start in range(0, len(correction), size)]
    return ("".join(pieces) + guard.end()).strip()


def sentences_of(answer):
    passage = Passage(answer)
    return [answer[passage.starts[span.start] : passage.ends[span.end - 1]] for span in passage.sentences]


def follow_each_other(parts, text):
    """Whether parts are in a text in their order, to the letter."""
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@settings(max_examples=600, deadline=None)
@given(cases())
def test_what_nobody_objects_to_survives(case):
    answer, correction = case
    shown = guarded(answer, correction, "bad")
    if not correction.strip():
        assert shown == ""
        return
    unmarked = [sentence for sentence in sentences_of(answer) if not re.search(r"\bbad\b", sentence)]
    assert follow_each_other(unmarked, shown)
    assert follow_each_other(PROTECTED.findall(answer), shown)


@settings(max_examples=600, deadline=None)
@given(cases())
def test_guarding_twice_changes_nothing(case):
    answer, correction = case
    shown = guarded(answer, correction, "bad")
    assert guarded(answer, shown, "bad") == shown


@settings(deadline=None)
@given(cases(), st.integers(1, 5))
def test_pieces_of_any_size_give_the_same_text(case, size):
    answer, correction = case
    assert guarded(answer, correction, "bad", size=size) == guarded(answer, correction, "bad")
