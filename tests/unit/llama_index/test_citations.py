"""Citations: kept where a sentence still says the same, dropped where it changed, never invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.response.schema import Response

from aligner_integrations.errors import ConfigurationError, RejectedCorrectionError
from aligner_integrations.llama_index import align_response
from aligner_integrations.llama_index.citations import (
    CitationFilter,
    carry_citations,
    cited,
    lost,
    without_citations,
)
from tests.unit.llama_index.support import TEXTUAL, make_aligner, make_nodes, read, response_of


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("Blue [1]. Wide [2].", ["[1]", "[2]"]),
        ("Blue [1, 2], wide [2][3].", ["[1]", "[2]", "[3]"]),
        ("Blue [citation:ab-1].", ["[citation:ab-1]"]),
        ("Blue 【1†sky.txt】.", ["【1†sky.txt】"]),
        ("Blue[^1].", ["[1]"]),
        ("Blue [1-3], wide [5 – 6, 9].", ["[1]", "[2]", "[3]", "[5]", "[6]", "[9]"]),
        ("Blue [9-3] and [1-999].", ["[9]", "[3]", "[1]", "[999]"]),  # no range, and one too long to be meant
        ("A [link](http://x), [1](http://x), [a note], `list[0]`, ```\nrow[1]\n``` and [2024-01].", []),
        ("", []),
    ],
)
def test_what_a_text_cites(text, things):
    assert cited(text) == things


def test_without_citations():
    assert without_citations("Blue [1]. Wide [2, 3].\n- `x[1]` [1]") == "Blue. Wide.\n- `x[1]`"


@pytest.mark.parametrize(
    ("answer", "correction", "wanted"),
    [
        # The aligner lost it, the sentence is the same or lost a rude word.
        ("The sky is blue [1].", "The sky is blue.", "The sky is blue [1]."),
        ("The damn sky is blue [1].", "The sky is blue.", "The sky is blue [1]."),
        ("The sky is blue. [1] It is wide. [2]", "The sky is blue. It is wide.", "The sky is blue. [1] It is wide. [2]"),
        ("The sky is blue [1, 2].", "The sky is blue.", "The sky is blue [1, 2]."),
        ("The sky is blue[1].\n\nFools say no.", "The sky is blue.\n\nSome say no.", "The sky is blue[1].\n\nSome say no."),
        ("The sky [1] is blue [2].", "The sky is blue.", "The sky is blue [1] [2]."),
        ("The damn sky is blue [citation:ab-1].", "The sky is blue.", "The sky is blue [citation:ab-1]."),
        ("The damn sky is blue [1-3].", "The sky is blue.", "The sky is blue [1-3]."),
        ("天空是蓝色的[1]。你是笨蛋[2]。", "天空是蓝色的。请问医生。", "天空是蓝色的[1]。请问医生。"),
        ("天空是蓝色的[1]。", "天空不是蓝色的[1]。", "天空不是蓝色的。"),
        # The same sentence twice: each has its own.
        ("Blue sky [1]. Fool! Blue sky [2].", "Blue sky. Friend! Blue sky.", "Blue sky [1]. Friend! Blue sky [2]."),
        ("Blue sky. Fool! Blue sky [2].", "Blue sky. Friend! Blue sky.", "Blue sky. Friend! Blue sky [2]."),
        # Code is left alone.
        ("Call it [1]:\n```\nrow[1] = 2.\n```", "Call it:\n```\nrow[1] = 2.\n```", "Call it [1]:\n```\nrow[1] = 2.\n```"),
        ("The row is 2 [1].", "```\nThe row is 2.\n```", "```\nThe row is 2.\n```"),
        ("Damn, use `x[1]` here [2].", "Use `x[1]` here.", "Use `x[1]` here [2]."),
        ("Blue `.", "Blue ` sky.\nBlue [1].", "Blue ` sky.\nBlue."),  # a stray backtick ends with its line
        # Left in place by the aligner.
        ("The sky [1] is blue.", "The sky [1] is blue!", "The sky [1] is blue!"),
        # The sentence says something else now: a word, a number, a negation.
        ("It is a bad idea [1].", "It is a good idea [1].", "It is a good idea."),
        ("The trip from here to there costs 5 euros [1].", "The trip from here to there costs 9 euros [1].",
         "The trip from here to there costs 9 euros."),
        ("You should eat the red berries [1].", "You should not eat the red berries [1].",
         "You should not eat the red berries."),
        ("The sky is blue [1].", "Please ask a doctor.", "Please ask a doctor."),
        # Invented, or moved to a sentence that cited nothing.
        ("The sky is blue.", "The sky is blue [1].", "The sky is blue."),
        ("The sky is blue [1]. It is wide.", "The sky is blue. It is wide [1].", "The sky is blue [1]. It is wide."),
        ("The sky is blue [1].", "The sky is blue [1][7].", "The sky is blue [1]."),
    ],
)  # fmt: skip
def test_keep(answer, correction, wanted):
    assert carry_citations(answer, correction) == wanted


def test_an_unchanged_answer_is_unchanged():
    answer = "The sky [1] is blue. [2]\n\n* It is wide [3, 4];\n* and `x[0]` is code.\n"
    assert carry_citations(answer, answer) == answer


def test_drop():
    assert carry_citations("Blue [1].", "Blue [1]. Wide [2].", "drop") == "Blue. Wide."


def test_original_if_lost():
    assert carry_citations("Blue sky [1].", "Blue sky.", "original_if_lost") == "Blue sky [1]."
    with pytest.raises(RejectedCorrectionError, match=r"\[1\], \[2\]"):
        carry_citations("The sky is blue [1][2].", "Ask a doctor.", "original_if_lost")


def test_what_was_lost():
    assert lost("Blue [1, 2]. Wide [3].", "Blue [2].") == ["[1]", "[3]"]


def test_a_long_answer_takes_no_time():
    answer = " ".join(f"Word{i} says that thing number {i} is blue and wide [{i % 99}]." for i in range(600))
    correction = answer.replace("blue", "red").replace("[", "(").replace("]", ")")
    assert cited(carry_citations(answer, correction)) == []
    correction = without_citations(answer).replace(" and wide", "")
    assert len(cited(carry_citations(answer, correction))) == 99


HOSTILE = [" ", "\t", "\n", "[", "[1,", "[1", "[1] ", "`[1]", "【", ". ", "a b. ", "word ", "not 1 ", "[citation:"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_take_no_time(text):
    """In quadratic time each of these would take many minutes."""
    text *= 160_000 // len(text)
    cited(text)
    carry_citations(text, f"{text} x")
    carry_citations(f"{text} [1].", f"{text[::-1]} x")
    pieces = CitationFilter()
    for i in range(0, len(text), 40):
        pieces.feed(text[i : i + 40])
    pieces.end()


SNIPPETS = st.lists(
    st.sampled_from(
        [
            "The sky is blue",
            "not",
            "wide",
            " ",
            " ",
            ".",
            "\n",
            "[1]",
            "[2, 3]",
            "[4-6]",
            "[citation:a]",
            "[",
            "]",
            "`",
            "(x)",
            "!",
        ]
    )
).map("".join)


@given(SNIPPETS, SNIPPETS)
def test_nothing_is_invented_and_no_word_changes(answer, correction):
    carried = carry_citations(answer, correction)
    assert set(cited(carried)) <= set(cited(answer))
    assert "".join(without_citations(carried).split()) == "".join(without_citations(correction).split())
    assert carry_citations(answer, answer) == answer
    assert cited(carry_citations(answer, correction, "drop")) == []


@given(SNIPPETS, st.integers(1, 9))
def test_any_stream_is_filtered_as_its_whole_text(text, size):
    pieces = CitationFilter()
    shown = "".join(pieces.feed(text[i : i + size]) for i in range(0, len(text), size)) + pieces.end()
    assert shown == without_citations(text)


@pytest.mark.parametrize(
    "text", ["Blue [1] sky [2].", "A [note] and [1](x) here [", "`x[1]` and [1].", "[3] Blue [1, 2]\n[1]", "【1†a】 ok"]
)
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_filter_of_a_stream_says_what_the_whole_text_says(text, size):
    pieces = CitationFilter()
    shown = [pieces.feed(text[i : i + size]) for i in range(0, len(text), size)]
    assert "".join([*shown, pieces.end()]) == without_citations(text)


def test_the_filter_holds_back_no_more_than_it_must():
    pieces = CitationFilter()
    assert [pieces.feed(piece) for piece in ("The", " sky", " [", "1", "]", " is")] == [
        "The",
        " sky",
        "",
        "",
        "",
        " is",
    ]


# In responses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_in_a_response(kind):
    aligner = make_aligner(lambda prompt: "The sky is blue. Ask a doctor [2]. So they say [9].")
    response = response_of(kind, "The damn sky is blue [1]. Drink bleach [2].", source_nodes=make_nodes())
    aligned = align_response(aligner, "Is it?", response)
    assert await read(aligned) == ["The sky is blue [1]. Ask a doctor. So they say."]  # after the last decision
    assert aligned.metadata["aligner"]["citations_lost"] == ["[2]"]


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_an_answer_that_cites_nothing_is_streamed_live(kind):
    aligner = make_aligner(lambda prompt: "[1] The sky is blue [2].")
    aligned = align_response(aligner, "Is it?", response_of(kind, "Bad sky.", source_nodes=make_nodes()))
    pieces = await read(aligned)
    assert "".join(pieces) == "The sky is blue."
    assert len(pieces) > 1 or kind is Response
    assert "citations_lost" not in aligned.metadata["aligner"]


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_only_an_invented_citation(kind):
    aligned = align_response(
        make_aligner(lambda prompt: "Blue sky [1]."),
        "Is it?",
        response_of(kind, "Blue sky.", source_nodes=make_nodes()),
    )
    assert "".join(await read(aligned)) == "Blue sky."
    assert aligned.metadata["aligner"]["outcome"] == "kept"


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_without_sources_brackets_are_text(kind):
    aligned = align_response(make_aligner(lambda prompt: "See row [1]."), "Is it?", response_of(kind, "See."))
    assert "".join(await read(aligned)) == "See row [1]."


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_original_if_lost_follows_on_reject(kind):
    answer, options = "Drink bleach [1].", {"fn": lambda prompt: "Ask a doctor."}
    aligned = align_response(make_aligner(**options), "Q", response_of(kind, answer), citations="original_if_lost")
    assert "".join(await read(aligned)) == answer
    record = aligned.metadata["aligner"]
    assert (record["outcome"], record["reason"]) == ("rejected", "repair")
    blocking = make_aligner(**options, on_reject="block", block_message="withheld")
    aligned = align_response(blocking, "Q", response_of(kind, answer), citations="original_if_lost")
    assert "".join(await read(aligned)) == "withheld"


def test_an_unknown_mode():
    with pytest.raises(ConfigurationError, match=r"citations is 'all'.*original_if_lost"):
        align_response(make_aligner(), "Q", Response("A"), citations="all")
