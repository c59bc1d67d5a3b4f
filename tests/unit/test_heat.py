"""A text with its words in red."""

import re

import pytest

from aligner_integrations.heat import heat


def bare(shown):
    return re.sub(r"<[^>]*>", "", shown)


def test_a_word_is_as_red_as_its_strongest_piece():
    shown = heat([(0, "a", 0.0), (1, " sh", 0.2), (4, "it", 1.0), (6, " day\n", 0.02)])
    assert shown == (
        'a <span title="100%" style="background: rgba(248, 81, 73, 0.55); text-decoration: underline">shit</span> day\n'
    )


def test_what_is_weak_is_faint_and_not_underlined():
    shown = heat([(0, "well", 0.2)])
    assert "rgba(248, 81, 73, 0.11)" in shown and "underline" not in shown


@pytest.mark.parametrize("text", ["", " ", "<b>&amp;", "na\u00efve \U0001f600", "a\n\n  b"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_text_stays_and_is_escaped(text, weight):
    shown = bare(heat((place, letter, weight) for place, letter in enumerate(text)))
    assert shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


def test_tokens_that_share_a_character_show_it_once():
    assert bare(heat([(0, "x ☺", 0.1), (2, "☺", 0.9), (3, "!", 0.0)])) == "x ☺!"
