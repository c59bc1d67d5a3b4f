"""A thought at the beginning of a text is told from the answer behind it, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.thought import split_thought


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("It is.", "", "It is."),
        ("  It is.", "", "  It is."),
        ("", "", ""),
        ("<think>Is it?</think>It is.", "<think>Is it?</think>", "It is."),
        ("\n<think>\nIs it?\n</think>\n\nIt is.\n", "\n<think>\nIs it?\n</think>\n\n", "It is.\n"),
        ("<think></think>\n\nIt is.", "<think></think>\n\n", "It is."),
        ("<think>a</think> <think>b</think> It is.", "<think>a</think> <think>b</think> ", "It is."),
        ("<think>Is it", "<think>Is it", ""),
        ("<think>a</think>\n<think>b", "<think>a</think>\n<think>b", ""),
        ("Is it?\n</think>\n\nIt is.", "Is it?\n</think>\n\n", "It is."),  # the tag was opened in the prompt
        ("Write <think> and </think> around it.", "", "Write <think> and </think> around it."),
        ("A </think> ends it.", "", "A </think> ends it."),
        ("<thinking>no tag of ours</thinking>", "", "<thinking>no tag of ours</thinking>"),
        ('<think>data?</think>{"a": 1}', "<think>data?</think>", '{"a": 1}'),
    ],
)
def test_where_a_thought_ends(text, thought, answer):
    assert split_thought(text) == (thought, answer)


@given(st.lists(st.sampled_from(["<think>", "</think>", "\n", " ", "a", "b c"]), max_size=20).map("".join))
def test_nothing_is_lost(text):
    thought, answer = split_thought(text)
    assert thought + answer == text
    assert not answer.lstrip().startswith("<think>")


@pytest.mark.parametrize("text", ["<think>" * 20_000, "<think></think>" * 10_000, " " * 200_000, "\n</think" * 20_000])
def test_hostile_texts_take_no_longer_than_their_length(text):
    split_thought(text)
