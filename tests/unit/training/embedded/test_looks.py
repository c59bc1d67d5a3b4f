"""Looks of real text."""

import random
import re

import pytest

from aligner_integrations.training.embedded.looks import ended, laid_out, masked, typed


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("i don 't know , i 'm sorry . it 's late !", "I don't know, I'm sorry. It's late!"),
        ("we do n't care", "We don't care"),
        ("see ( this ) now", "See (this) now"),
    ],
)
def test_typed(text, result):
    assert typed(text) == result


def test_masked_words_are_those_that_go():
    rng = random.Random(0)
    text = masked(rng, "this shit is stupid as hell", "this is stupid as hell")
    assert re.fullmatch(r"this \S+ is stupid as hell", text) and "shit" not in text
    assert masked(rng, "nothing here", "nothing here") == "nothing here"


@pytest.mark.parametrize(("text", "result"), [("So it is", "So it is."), ("Is it?", "Is it?"), ("Yes. ", "Yes. ")])
def test_ended(text, result):
    assert ended(text) == result


def test_another_layout_keeps_every_word():
    text = "One sentence stands here. A second one follows it. A third one ends the answer."
    looks = {laid_out(random.Random(seed), text) for seed in range(60)}
    assert len(looks) > 8
    for look in looks:
        words = iter(look.split())
        assert all(word in words for word in text.split())  # in their order
