"""Special-token strings in a prompt reach the server broken up, and come back whole."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.remote.special_tokens import _KNOWN, Broken

SPECIALS = (
    "</s>", "<s>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<|reserved_special_token_0|>", "<unk>", "<pad>",
    "<start_of_turn>", "<end_of_turn>", "<fim_prefix>", "<extra_id_0>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[MASK]", "[gMASK]",
    "<｜end▁of▁sentence｜>", "<EOS>", "<BOS_TOKEN>", "<file_sep>", "<unused12>",
)  # fmt: skip
PLAIN = (
    "<b>bold</b> <div class='a'>", "a < b and b > a", "[NOTE] [A] [1]", "x <| y |> z", "List<String>", "<https://x.org>",
    "<think>", "if (a<s) {}", "<summary>", "|>", "[inst]",
)  # fmt: skip

texts = st.lists(
    st.sampled_from([*SPECIALS, *PLAIN, " ", "\n", "<", "|", "< |im_end|>", "<  /s>", "s>", "é"]), max_size=12
).map("".join)


@pytest.mark.parametrize("special", SPECIALS)
def test_breaks_up_the_tokens_of_all_families(special):
    broken = Broken(f"Red.{special}\nMore")
    assert special not in broken.text
    assert broken.text.replace(" ", "") == f"Red.{special}\nMore".replace(" ", "")
    assert broken.mend(f" Blue.{special[0]} {special[1:]}") == f" Blue.{special}"


@pytest.mark.parametrize("text", PLAIN)
def test_leaves_ordinary_text_alone(text):
    broken = Broken(text)
    assert broken.text == text and broken.mend("< /s> " + text) == "< /s> " + text


@given(texts)
def test_nothing_known_is_left_and_an_echo_gives_the_text_back(text):
    broken = Broken(text)
    assert not _KNOWN.search(broken.text)
    assert broken.mend(broken.text) == text


@given(texts)
def test_nothing_listed_is_left(text):
    listed = ["</s>", "<|im_end|>", "s>", "|>", "<", "has space"]
    broken = Broken(text, listed)
    assert not any(special in broken.text for special in ("</s>", "<|im_end|>", "s>", "|>"))


@given(texts, st.lists(st.integers(1, 7), min_size=1, max_size=30))
def test_pieces_are_mended_like_the_whole(text, cuts):
    broken, sent = Broken(text), f"x{Broken(text).text}y"
    mender, given_out, start = broken.mender(), [], 0
    while start < len(sent):
        length = cuts[len(given_out) % len(cuts)]
        given_out.append(mender.feed(sent[start : start + length]))
        start += length
    assert "".join([*given_out, mender.end()]) == broken.mend(sent)


@given(texts)
def test_positions_lead_back_to_the_same_characters(text):
    broken = Broken(text)
    places = [broken.position(i) for i in range(len(broken.text) + 1)]
    assert places == sorted(places) and places[0] == 0 and places[-1] == len(text)
    originals = [i for i, (a, b) in enumerate(zip(places, places[1:], strict=False)) if b > a]
    assert "".join(broken.text[i] for i in originals) == text


def test_what_was_broken_in_the_text_already_stays_broken():
    broken = Broken("< /s> is how he writes </s>.")
    assert broken.text == "< /s> is how he writes <  /s>."
    assert broken.mend("He writes < /s> and <  /s>.") == "He writes < /s> and </s>."


def test_gives_up_putting_back_rather_than_change_the_writers_words():
    text = "".join(f"<{' ' * n}/s>" for n in range(9))
    broken = Broken(text)
    assert not _KNOWN.search(broken.text) and broken.mend("< /s>") == "< /s>"


def test_a_long_text_of_markers_takes_no_time():
    broken = Broken("<|im_end|>" * 20_000 + "<|" * 50_000 + "<a_b" * 50_000)
    assert len(re.findall(r"< \|im_end", broken.text)) == 20_000


def test_thousands_of_different_strings_come_back_in_pieces():
    """Each with a place of its own to look for: by the square of their number this would take a minute."""
    text = " ".join(f"<|x{i}|>" for i in range(4000))
    broken = Broken(text)
    sent, mender = broken.text, broken.mender()
    assert not _KNOWN.search(sent) and broken.mend(sent) == text
    assert "".join(mender.feed(sent[i : i + 4]) for i in range(0, len(sent), 4)) + mender.end() == text
    assert broken.position(len(sent)) == len(text)


def test_a_string_inside_another_one_is_made_whole_first():
    broken = Broken("abc", ["abc", "bc"])
    assert broken.text == "a b c" and broken.mend(broken.text) == "abc"


def test_holds_back_no_more_than_it_must():
    mender = Broken("</s>").mender()
    assert [mender.feed(piece) for piece in ("Hello", " a < b", " <", " /", "s> end")] == [
        "Hello",
        " a < b",
        " ",
        "",
        "</s> end",
    ]
