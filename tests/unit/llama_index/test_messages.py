"""Which part of a message is the answer, and what becomes of the rest of it."""

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

from aligner_integrations.errors import RejectedCorrectionError
from aligner_integrations.llama_index.corrector import Corrector
from aligner_integrations.llama_index.messages import answer_in, with_correction, without_marks
from tests.unit.llama_index.support import Recorder, blocks_of, cite, make_aligner

IMAGE = ImageBlock(url="https://example.org/a.png")


def message_of(*blocks):
    return ChatMessage(
        role="assistant", blocks=[TextBlock(text=block) if isinstance(block, str) else block for block in blocks]
    )


def corrected(message, fn=None, **options):
    """The message after its correction, the record, and what the aligner saw."""
    fn = fn or Recorder()
    corrector = Corrector(make_aligner(fn, **options.pop("aligner", {})), **options)
    correction, record = corrector.recorded("Is it?", answer_in(message))
    return with_correction(message, correction, corrector.citations, record), record


@pytest.mark.parametrize(
    ("blocks", "answer"),
    [
        (["It is a bad idea."], "It is a bad idea."),
        (["Let me look.", IMAGE, "It is a bad idea."], "It is a bad idea."),
        (["Let me look.", IMAGE, "It is", " a bad idea."], "It is a bad idea."),
        (["It is a bad idea.", IMAGE], "It is a bad idea."),  # what has no words does not make it less an answer
        (["It is a bad idea.", IMAGE, "\n"], "It is a bad idea."),
        (["One.", "Two."], "One.\nTwo."),
        (["One", ", two"], "One, two"),
        ([IMAGE], ""),
        ([], ""),
    ],
)
def test_the_answer_is_the_text_behind_the_last_block_that_is_no_text(blocks, answer):
    assert answer_in(message_of(*blocks)) == answer


def test_what_stands_before_the_answer_stays():
    message = message_of("A bad start.", IMAGE, "It is a bad idea.")
    shown, _ = corrected(message)
    assert blocks_of(shown) == ["A bad start.", "<image>", "It is a good idea."]
    assert shown.blocks[1] is message.blocks[1]


def test_what_stands_behind_the_answer_stays_too():
    assert blocks_of(corrected(message_of("A bad idea.", IMAGE))[0]) == ["A good idea.", "<image>"]


@pytest.mark.parametrize(
    "blocks", [["Fine.", cite("1"), " Good.", cite("2")], ["Fine.", "Good."], [" Fine. "], [IMAGE], []]
)
def test_a_message_that_is_kept_is_the_same_object(blocks):
    message = message_of(*blocks)
    assert corrected(message)[0] is message


# Citation blocks --------------------------------------------------------------------------------------------------------

CITED = ["Paris is in France.", cite("France"), " Rome is a bad town.", cite("Towns"), " Bye."]


def test_a_citation_stays_behind_a_sentence_that_still_says_the_same():
    fn = Recorder(lambda prompt: "Hello. Paris is in France. Rome is a lovely old place for a holiday. Bye.")
    shown, record = corrected(message_of(*CITED), fn)
    assert blocks_of(shown) == [
        "Hello. Paris is in France.",
        "<France>",
        " Rome is a lovely old place for a holiday. Bye.",
    ]
    assert record["citations_lost"] == ["Towns"]
    assert fn.prompts == ["Q=Is it?;A=Paris is in France. Rome is a bad town. Bye.;"]  # it never sees a mark


def test_citations_as_blocks_and_in_the_text():
    fn = Recorder(lambda prompt: "Paris is in France. Rome is awful. Bye.")
    shown, record = corrected(message_of("Paris is in France [1].", cite("France"), " Rome is bad [2]."), fn)
    assert blocks_of(shown) == ["Paris is in France [1]", "<France>", ". Rome is awful. Bye."]
    assert record["citations_lost"] == ["[2]"]


def test_citations_that_are_dropped():
    shown, record = corrected(message_of(*CITED), citations="drop")
    assert blocks_of(shown) == ["Paris is in France. Rome is a good town. Bye."]
    assert record["citations_lost"] == ["France", "Towns"]


def test_a_correction_that_loses_a_block_can_be_refused():
    message = message_of(*CITED)
    shown, record = corrected(message, lambda prompt: "All is well.", citations="original_if_lost")
    assert shown is message and record["outcome"] == "rejected"
    with pytest.raises(RejectedCorrectionError, match="France"):
        corrected(message, lambda prompt: "All is well.", citations="original_if_lost", aligner={"on_reject": "raise"})


async def test_streams_of_an_answer_with_citations():
    message = message_of(*CITED)
    corrector = Corrector(make_aligner(lambda prompt: "Paris is in France."))
    for stream in (corrector.stream("Is it?", answer_in(message)), corrector.astream("Is it?", answer_in(message))):
        pieces = [piece async for piece in stream] if hasattr(stream, "aclose") else list(stream)
        assert "".join(pieces) == "Paris is in France."
        assert stream.correction.answer == "Paris is in France. Rome is a bad town. Bye."


def test_an_upstream_that_writes_a_mark_itself():
    fake = answer_in(message_of("So it is.", cite("x"))).replace("1 x", "7 y")
    shown, _ = corrected(message_of(fake, cite("x"), " It is bad."))
    assert blocks_of(shown) == ["So it is.", "<x>", " It is good."]
    assert without_marks(fake) == "So it is."


# Blocked ----------------------------------------------------------------------------------------------------------------


def test_of_a_blocked_answer_nothing_is_left():
    message = ChatMessage(
        role="assistant",
        blocks=[TextBlock(text="A bad start."), IMAGE, TextBlock(text="A bad end."), cite("bad")],
        additional_kwargs={"reasoning_content": "bad"},
    )
    shown, _ = corrected(
        message, aligner={"on_reject": "block", "accept": lambda *a: False, "block_message": "withheld"}
    )
    assert shown == ChatMessage(role="assistant", content="withheld")


# Thoughts ---------------------------------------------------------------------------------------------------------------

THOUGHT = "<think>\nA bad one asks.\n</think>\n\n"


def test_a_thought_in_the_text_stays_where_it_is():
    fn = Recorder()
    assert blocks_of(corrected(message_of(f"{THOUGHT}It is bad."), fn)[0]) == [f"{THOUGHT}It is good."]
    assert fn.prompts == ["Q=Is it?;A=It is bad.;"]


@pytest.mark.parametrize("text", [f'{THOUGHT}{{"a": "bad"}}', "<think>It is bad", f"{THOUGHT}Empty Response"])
async def test_what_is_behind_a_thought_is_judged_as_if_it_stood_alone(text):
    fn = Recorder()
    message = message_of(text)
    shown, record = corrected(message, fn)
    assert shown is message and record["outcome"] == "skipped" and not fn.prompts
    corrector = Corrector(make_aligner(fn))
    assert "".join(corrector.stream("Is it?", text)) == text
    assert "".join([piece async for piece in corrector.astream("Is it?", text)]) == text


@pytest.mark.parametrize("late", [False, True])
async def test_a_thought_in_a_stream_is_shown_before_the_correction_unless_that_is_blocked(late):
    options = {"accept": lambda *a: True} if late else {}
    for fn, shown in (
        (Recorder(), f"{THOUGHT}It is good."),
        (Recorder(lambda prompt: ""), "withheld"),
    ):
        corrector = Corrector(make_aligner(fn, on_error="block", block_message="withheld", **options))
        for stream in (
            corrector.stream("Is it?", f"{THOUGHT}It is bad."),
            corrector.astream("Is it?", f"{THOUGHT}It is bad."),
        ):
            pieces = [piece async for piece in stream] if hasattr(stream, "aclose") else list(stream)
            assert "".join(pieces) == stream.correction.text == shown
            assert stream.correction.answer == f"{THOUGHT}It is bad."


async def test_thoughts_in_a_list_of_answers():
    answer = f"Response 1: {THOUGHT}It is bad.\n---------------------\nResponse 2: So bad."
    corrector = Corrector(make_aligner())
    for correction in (corrector.correct("Is it?", answer), await corrector.acorrect("Is it?", answer)):
        assert correction.text == f"Response 1: {THOUGHT}It is good.\n---------------------\nResponse 2: So good."
