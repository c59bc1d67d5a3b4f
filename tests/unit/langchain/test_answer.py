"""Which part of a message is the answer, and what of the rest stays as it is."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from aligner_integrations import AlignedChatModel
from aligner_integrations.langchain import AlignerMiddleware
from tests.unit.langchain.agents.support import Script, call, lookup
from tests.unit.langchain.listening import WAYS, thread
from tests.unit.langchain.provider_messages import ANSWER, MESSAGES, RAW, SEARCH, THINKING, URL, openai, text
from tests.unit.langchain.support import Upstream, aligner, astreamed, called, repeat, step, total

GOOD = ANSWER.replace(RAW, "good")
NAMES = pytest.mark.parametrize("name", MESSAGES)


def good(prompt):
    return prompt.partition("||")[2].replace(RAW, "good")


def seen(fn=good):
    """A correction and the answers that the aligner was given."""
    answers = []

    def note(prompt):
        answers.append(prompt.partition("||")[2])
        return fn(prompt)

    return note, answers


def ways(message, fn=good, **options):
    """A message through all ways: as a step and as a model, whole and as a stream."""
    value = {"question": "Why?", "answer": message}
    runnable = step(fn, **options) | (lambda value: value["answer"])
    yield from called(runnable, value)
    yield total(chunk["answer"] for chunk in step(fn, **options).stream(value) if "answer" in chunk)
    model = AlignedChatModel(llm=saying(message), aligner=aligner(fn), **options)
    yield from called(model, "Why?")
    yield total(model.stream("Why?"))
    yield total(asyncio.run(astreamed(model, "Why?")))


def saying(message):
    """An upstream that says a message."""
    parts = ("additional_kwargs", "response_metadata", "usage_metadata")
    return Upstream(
        answer=message.content, message={part: getattr(message, part) for part in parts}, disable_streaming=True
    )


def blocks(message):
    """The content, without the places that only streams give."""
    if isinstance(message.content, str):
        return message.content
    return [
        {k: v for k, v in block.items() if k != "index"} if isinstance(block, dict) else block
        for block in message.content
    ]


def wanted(message):
    """The content with the answer corrected, in the first of its blocks."""
    if isinstance(message.content, str):
        return message.content.replace(ANSWER, GOOD)
    first, *others = [i for i, block in enumerate(message.content) if words(block) in ANSWER or ANSWER in words(block)]
    block = message.content[first]
    corrected = words(block).replace(ANSWER, GOOD) if ANSWER in words(block) else GOOD
    if isinstance(block, dict):
        kept = {k: v for k, v in block.items() if k not in ("annotations", "citations")}
        corrected = {**kept, "text": corrected}
    return [corrected if i == first else block for i, block in enumerate(message.content) if i not in others]


def words(block):
    return (block if isinstance(block, str) else block.get("text")) or "no words"


@NAMES
def test_the_aligner_reads_the_answer_alone_and_all_else_stays_where_it_is(name):
    before = MESSAGES[name]
    fn, answers = seen()
    for after in ways(before, fn):
        assert answers[-1] == ANSWER
        assert blocks(after) == blocks(before.model_copy(update={"content": wanted(before)}))
        assert after.response_metadata["aligner"]["outcome"] == "corrected"
        assert after.additional_kwargs == before.additional_kwargs


@NAMES
def test_an_answer_that_is_kept_is_the_same_in_every_block(name):
    before = MESSAGES[name]
    for after in ways(before, repeat):
        assert blocks(after) == blocks(before)
        assert after.additional_kwargs == before.additional_kwargs
        told = {key: value for key, value in after.response_metadata.items() if key != "aligner"}
        assert told == before.response_metadata and after.response_metadata["aligner"]["outcome"] == "kept"


def test_ids_phases_and_signatures_stay_with_the_corrected_block():
    after = step(good).invoke([HumanMessage("Why?"), MESSAGES["openai phases"]])[-1]
    assert after.content[1:] == [
        text(SEARCH, id="msg_1", annotations=[], phase="commentary"),
        text(GOOD, id="msg_2", phase="final_answer"),
    ]
    after = step(good).invoke([HumanMessage("Why?"), MESSAGES["gemini"]])[-1]
    assert [b.get("extras") for b in after.content[-2:]] == [{"signature": "c2ln"}, {"signature": "c2ln2"}]


def test_what_points_at_the_old_text_goes():
    said = AIMessage([text(ANSWER, annotations=[URL], logprobs=[1])], additional_kwargs={"annotations": [URL], "x": 1})
    after = step(good).invoke([HumanMessage("Why?"), said])[-1]
    assert after.content == [text(GOOD)] and after.additional_kwargs == {"x": 1}


def test_commentary_that_is_all_there_is_beside_a_call():
    comment = text(ANSWER, phase="commentary", id="msg_1")
    said = openai(comment, {"type": "function_call", "call_id": "c", "name": "f"})
    said = AIMessage(said.content, tool_calls=[call("lookup", city="Oslo")])
    model = Script(turns=[said, AIMessage("Done.")])
    agent = create_agent(model, [lookup], middleware=[AlignerMiddleware(aligner(good), align="all")])
    message = agent.invoke({"messages": "Why?"})["messages"][1]
    assert message.content == [{**comment, "text": GOOD}, said.content[1]]


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
@pytest.mark.parametrize("way", ["stream_events-v3", "astream_events-v3", "stream-messages"])
@pytest.mark.parametrize("name", ["openai", "openai search", "anthropic interleaved"])
def test_a_stream_puts_the_corrected_block_together_as_one(name, way):
    """LangChain's third protocol reads each chunk by itself: by whose shapes its blocks have, and by their ids."""
    model = AlignedChatModel(llm=saying(MESSAGES[name]), aligner=aligner(good))
    agent = create_agent(model, checkpointer=InMemorySaver())
    WAYS[way](agent, {"messages": "Why?"}, thread())
    content = agent.get_state(thread()).values["messages"][-1].content
    (corrected,) = [block for block in content if GOOD in str(block)]
    assert content[-1] == corrected and corrected.get("id") == wanted(MESSAGES[name])[-1].get("id")


# Thoughts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, AIMessage])
def test_data_behind_a_thought_is_data(kind):
    fn, answers = seen()
    said = '<think>RAW: a list?</think>\n["RAW"]'
    after = step(fn).invoke({"question": "Why?", "answer": kind(said)})["answer"]
    assert (after if kind is str else after.content) == said and not answers


@pytest.mark.parametrize("kind", [str, AIMessage])
def test_a_thought_without_an_end_is_no_answer(kind):
    fn, answers = seen()
    said = "<think>RAW and on and on"
    after = step(fn).invoke({"question": "Why?", "answer": kind(said)})["answer"]
    assert (after if kind is str else after.content) == said and not answers


def test_a_thought_in_a_stream_of_text():
    fn, answers = seen()
    said = f"<think>RAW plan</think>\n{ANSWER}"
    chunks = [c["answer"] for c in step(fn).stream({"question": "Why?", "answer": said}) if "answer" in c]
    assert len(chunks) > 2 and "".join(chunks) == f"<think>RAW plan</think>\n{GOOD}" and answers == [ANSWER]


# Left out if asked to -------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("fn", [good, repeat])
def test_reasoning_is_left_out_if_asked_to(name, fn):
    for after in ways(MESSAGES[name], fn, keep_reasoning=False):
        assert "RAW plan" not in repr(after) and "thinking" not in repr(after.content)
        assert after.text.endswith(fn("||" + ANSWER))
        assert after.text.startswith(SEARCH) == MESSAGES[name].text.startswith(SEARCH)


def test_without_its_reasoning_a_message_of_openai_has_no_id():
    for after in ways(MESSAGES["openai phases"], keep_reasoning=False):
        assert [block.get("id") for block in after.content] == [None, None]
    for after in ways(MESSAGES["openai"], keep_reasoning=False):
        assert after.content[0]["id"] == "msg_1"


def test_reasoning_that_led_to_a_call_stays():
    said = AIMessage([THINKING, text(ANSWER)], tool_calls=[call("lookup", city="Oslo")])
    model = Script(turns=[said, AIMessage([THINKING, text(ANSWER)])])
    agent = create_agent(model, [lookup], middleware=[AlignerMiddleware(aligner(good), keep_reasoning=False)])
    messages = agent.invoke({"messages": "Why?"})["messages"]
    assert messages[1].content == said.content and messages[-1].content == [text(GOOD)]
