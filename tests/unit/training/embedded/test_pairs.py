"""Which human rewrite is learnt from, and how it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.training.embedded.pairs import (
    best_references,
    civil_references,
    edit_cost,
    keeps_sense,
    project,
)
from aligner_integrations.training.embedded.sources import Rude


def test_rewrites_are_clean_keep_the_sense_and_the_closest_comes_first():
    rude = Rude(
        "this damn thing works for all of us", ("it is fine", "this damn thing works for all of us", " ", "this thing works for all")
    )  # fmt: skip
    assert civil_references(rude) == ["this thing works for all"]  # "it is fine" is another text


@pytest.mark.parametrize(
    ("toxic", "neutral", "keeps"),
    [
        ("nobody is stupid enough", "nobody is unwise enough", True),
        ("nobody is stupid enough", "nobody is not wise enough", False),
        ("he is stupid", "he is not smart", False),
        ("i don 't give a shit", "I don't care", True),
        ("i do n't give a shit", "i dont care", True),
        ("you cant fix stupid", "you can fix it", False),
        ("he is a moron", "he is a bad person", False),
        ("he is a bad person , a moron", "he is a bad person", True),
    ],
)
def test_keeps_sense(toxic, neutral, keeps):
    assert keeps_sense(toxic, neutral) is keeps


def test_a_close_replacement_does_not_lose_to_a_hole():
    toxic = "the assholes name a variable"
    assert edit_cost(toxic, "the people name a variable") == edit_cost(toxic, "the name a variable") == 0
    assert edit_cost(toxic, "they name things") > 0


def test_of_equally_close_rewrites_the_likelier_is_learnt_from():
    rows = [(Rude("a b", ()), ["the name a variable", "the people name a variable"]), (Rude("c", ()), ["one"])]
    likely = {"the name a variable": -6.0, "the people name a variable": -4.0, "one": -1.0}
    rows[0] = (Rude("the assholes name a variable", ()), rows[0][1])
    assert best_references(rows, lambda texts: [likely[text] for text in texts]) == [
        "the people name a variable",
        "one",
    ]


@pytest.mark.parametrize(
    ("toxic", "neutral", "edit"),
    [
        ("who gives a shit if it is so ?", "Who cares if it is so", "who cares if it is so ?"),
        ("i don 't like this shit .", "I don't like this", "i don 't like this ."),
        ("What a damn mess!\n\nReally.", "what a mess! really.", "What a mess!\n\nReally."),
        ("fuck , i am late", "I am late", "i am late"),
        ("Fuck, we are late.", "we are late", "We are late."),
        ("he is an idiot", "He is wrong.", "he is wrong"),
    ],
)
def test_an_edit_is_put_on_the_original(toxic, neutral, edit):
    assert project(toxic, neutral) == edit


@given(st.text("ab'. ,!\nX1", max_size=40))
def test_what_nobody_edited_stays_to_the_letter(text):
    assert project(text.strip(), " ".join(text.split()).upper()) == text.strip()
