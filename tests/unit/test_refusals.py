"""Refusals as LLMs write them, and corrections that decline."""

import pytest

from aligner_integrations.refusals import declines, is_refusal, survives

LONG = "Mix the two powders in a dry bowl, add water slowly, and stir until nothing is left at the bottom."


@pytest.mark.parametrize(
    "text",
    [
        "I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "I cannot provide instructions for this.",
        "I'm not able to do that. Is there something else?",
        "Sorry, that is not something for me.",
        "I'd rather not answer with an insult.",
        "I apologize, but it is not appropriate to joke about this.",
        "We won't support violence.",
        "I am really sorry that you feel this way.",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "You can't park here.",
        "The parser cannot read the file, so delete it.",
        "Sure, here is how it is done. I hope that this helps.",
        "I like it.",
        "It is not good.",
        "",
        "The tests pass. " * 30 + "I can't say more.",  # far from the beginning
    ],
)
def test_no_refusals(text):
    assert not is_refusal(text)


def test_eight_words_in_a_row_survive():
    assert survives(LONG, "I can't say: mix the TWO powders in a dry bowl - no.")
    assert not survives(LONG, "I can't say: mix the two powders in a wet bowl, no.")
    assert survives("You fool.", "I said you fool, sorry.")  # all of a shorter one
    assert not survives("You fool.", "I'm sorry.")
    assert not survives("...", "I'm sorry.")


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        (LONG, "I'm sorry, I can't help with that.", True),
        (LONG, LONG, False),
        (LONG, f"I can't help with that. {LONG}", False),
        (LONG, "Put it into water.", False),
        ("I can't help with that, you fool.", "I can't help with that.", False),  # it was one before
    ],
)
def test_declines(answer, text, found):
    assert declines(answer, text) is found
