"""The type that came in comes out; only the text changes."""

import asyncio

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.prompt_values import StringPromptValue
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from pydantic import BaseModel

from aligner_integrations.errors import InputError, UnsupportedValueError
from tests.unit.langchain.scripted import Scripted
from tests.unit.langchain.support import (
    ALIKE,
    PROMPT,
    REASONING,
    USAGE,
    Upstream,
    asked,
    called,
    full_message,
    repeat,
    step,
    total,
    want,
)


def ways(value, runnable=None):
    """The results of every way to call an aligner."""
    return called(runnable or step(), value)


@pytest.mark.parametrize("kind", [AIMessage, AIMessageChunk])
def test_message_keeps_everything_but_its_text(kind):
    before = full_message(kind=kind, logprobs={"content": [1]})
    copy = before.model_copy(deep=True)
    for _, after in ways(asked(before)):
        assert type(after) is kind
        assert after.content == want("Why?")
        assert (after.id, after.name, after.usage_metadata) == ("msg-1", "writer", USAGE)
        assert after.additional_kwargs == {"extra": [1]}
        record = after.response_metadata.pop("aligner")
        assert after.response_metadata == {"model_name": "m", "finish_reason": "stop"}  # log-probabilities went
        assert record["outcome"] == "corrected"
        assert record["question_from"] == "explicit"
        assert record["changed_share"] > 0
        assert ALIKE not in str(record)
    assert before == copy


def test_unchanged_message_keeps_what_describes_its_text():
    block = {"type": "text", "text": ALIKE, "annotations": [{"type": "citation"}], "index": 3}
    before = full_message([REASONING, block, dict(block)], logprobs={"content": [1]}, id="resp_1")
    for _, after in ways(asked(before), step(repeat)):
        assert after.content == before.content
        assert after.response_metadata["logprobs"] == {"content": [1]}
        assert after.response_metadata["id"] == "resp_1"
        assert after.response_metadata["aligner"]["outcome"] == "kept"


def test_blocks_that_are_not_text_and_what_is_before_them_stay_and_further_text_goes():
    before = full_message(
        [
            REASONING,
            {"type": "text", "text": "Let me see.", "annotations": [1], "id": "s", "index": 1},
            {"type": "image", "url": "u"},
            {"type": "text", "text": "I do ", "annotations": [1], "citations": [2], "id": "t", "index": 2},
            {"type": "text", "text": "not know."},
            "!",
        ]
    )
    for _, after in ways(asked(before)):
        text = {"type": "text", "text": want("Why?", ALIKE + "!"), "id": "t", "index": 2}
        assert after.content == [*before.content[:3], text]
    bare = full_message(["I do not know.", {"type": "image", "url": "u"}])
    assert step().invoke(asked(bare))[-1].content == [want("Why?"), {"type": "image", "url": "u"}]


def test_response_at_the_server_is_not_continued_after_a_change():
    after = step().invoke(asked(full_message(id="resp_1")))[-1]
    assert "id" not in after.response_metadata
    assert after.response_metadata["aligner"]["upstream_response_id"] == "resp_1"
    after = step().invoke(asked(full_message(id="chatcmpl-1")))[-1]
    assert after.response_metadata["id"] == "chatcmpl-1"


def test_original_is_in_the_record_only_if_asked_for():
    value = asked(AIMessage("A secret."))
    runnable = step(lambda prompt: "Corrected.", include_original=True)
    assert runnable.invoke(value)[-1].response_metadata["aligner"]["original"] == "A secret."
    for _, after in ways(value, step(lambda prompt: "Corrected.")):
        assert "secret" not in after.model_dump_json()


@pytest.mark.parametrize(
    "part",
    [
        {"tool_calls": [{"name": "f", "args": {"x": 1}, "id": "c"}]},
        {"invalid_tool_calls": [{"name": "f", "args": "{", "id": "c", "error": "e"}]},
        {"additional_kwargs": {"function_call": {"name": "f", "arguments": "{}"}}},
    ],
)
def test_message_with_tool_calls_is_left_alone(part):
    before = AIMessage("Let me look.", id="m", **part)
    results = [*ways(before), total(step().stream(before))]
    for after in results:
        assert after.content == "Let me look."
        assert after.tool_calls == before.tool_calls
        assert after.invalid_tool_calls == before.invalid_tool_calls
        assert after.additional_kwargs == before.additional_kwargs
        record = after.response_metadata["aligner"]
        assert (record["outcome"], record["reason"], record["question_from"]) == ("skipped", "tool_calls", None)


@pytest.mark.parametrize("content", ["", " \n", [], [REASONING]])
def test_message_without_text_is_left_alone(content):
    before = AIMessage(content)
    for after in (*ways(before), *step().stream(before)):
        assert after.content == content
        assert after.response_metadata["aligner"]["reason"] == "no_text"


def test_text_without_content_is_left_alone():
    assert list(ways("")) == [""] * 4
    assert list(step().stream(" ")) == [" "]


def test_structured_answer_is_left_alone_with_the_reason_on_record():
    for _, after in ways(asked(AIMessage('{"a": 1}'))):
        assert after.content == '{"a": 1}'
        assert after.response_metadata["aligner"]["reason"] == "structured"


# Explicit forms -----------------------------------------------------------------------------------------------------


def test_dict_with_question_and_answer():
    value = {"question": "Why?", "answer": ALIKE, "context": ["c"]}
    for after in ways(value):
        assert after == {"question": "Why?", "answer": want("Why?"), "context": ["c"]}
    assert value["answer"] == ALIKE


@pytest.mark.parametrize(
    "question",
    [
        HumanMessage("Why?"),
        [SystemMessage("Be nice."), HumanMessage("Why?")],
        StringPromptValue(text="Why?"),
        [("human", "Why?")],
    ],
)
def test_question_of_a_dict_may_be_messages_or_a_prompt(question):
    assert step().invoke({"question": question, "answer": ALIKE})["answer"] == want("Why?")


@pytest.mark.parametrize("key", ["input", "query"])
def test_dicts_of_retrieval_chains(key):
    assert step().invoke({key: "Why?", "context": [], "answer": ALIKE})["answer"] == want("Why?")


def test_what_is_given_wins_over_what_is_found():
    chain = RunnablePassthrough.assign(answer=PROMPT | Upstream()) | step()
    result = chain.invoke({"q": "found", "question": "given"})
    assert result["answer"].text == want("given")
    assert result["answer"].response_metadata["aligner"]["question_from"] == "explicit"
    assert chain.invoke({"q": "found"})["answer"].text == want("found")


def test_list_of_messages():
    before = [HumanMessage("one"), AIMessage("hm"), HumanMessage("two"), AIMessage(ALIKE, id="a")]
    for after in ways(before):
        assert after[:-1] == before[:-1]
        assert (after[-1].text, after[-1].id) == (want("two"), "a")
    assert before[-1].text == ALIKE
    state = {"messages": before, "other": 1}
    for after in ways(state):
        assert after["other"] == 1
        assert [m.text for m in after["messages"]] == ["one", "hm", "two", want("two")]
    assert state["messages"] is before


def test_list_that_holds_the_answer_alone_is_looked_up():
    chain = PROMPT | Upstream() | RunnableLambda(lambda message: [message]) | step()
    assert chain.invoke({"q": "x"})[0].text == want("x")


class Verdict(BaseModel):
    good: bool


class Note(BaseModel):
    """A note."""

    text: str


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (StringPromptValue(text="Why?"), "got StringPromptValue. A prompt is what the LLM is asked"),
        (Verdict(good=True), "got Verdict. Structured output is data"),
        (HumanMessage("Why?"), "got HumanMessage. Only what an LLM said"),
        (None, "got NoneType"),
        (7, "got int"),
        (b"bytes", "got bytes"),
        ({"text": "x"}, "got dict"),
        ([], "this one holds nothing"),
        (["a", "b"], "this one holds str"),
        ([HumanMessage("Why?")], "ends with HumanMessage"),
        ({"question": "Why?", "answer": None}, "'answer' must be a string or an AIMessage, got NoneType"),
        ({"question": 7, "answer": ALIKE}, "'question' must be a string, a prompt or messages, got int"),
    ],
)
def test_values_without_an_answer_are_errors_in_a_sentence(value, sentence):
    with pytest.raises(UnsupportedValueError, match=r"^(An aligner takes|A list|'answer'|'question')") as caught:
        step().invoke(value)
    assert sentence in str(caught.value)
    assert isinstance(caught.value, InputError) and isinstance(caught.value, TypeError)
    with pytest.raises(UnsupportedValueError):
        list(step().stream(value))


@pytest.mark.parametrize("way", [lambda c: c.invoke({"q": "x"}), lambda c: list(c.stream({"q": "x"}))])
def test_structured_output_in_a_chain_is_a_type_error(way):
    chain = PROMPT | Scripted().with_structured_output(Note) | step()
    with pytest.raises(TypeError, match="got Note. Structured output is data, not prose"):
        way(chain)


# Further forms of an answer -----------------------------------------------------------------------------------------

BLOCKS = [REASONING, {"type": "text", "text": ALIKE}]


@pytest.mark.parametrize(
    "keys", [("input", "output"), ("input", "answer"), ("query", "result"), ("question", "output")]
)
def test_dicts_of_agents_and_chains_keep_their_keys(keys):
    question, answer = keys
    value = {question: "Why?", "context": ["c"], answer: ALIKE, "intermediate_steps": []}
    wanted = {**value, answer: want("Why?")}
    assert list(ways(value)) == [wanted] * 4
    chunks = [*step().stream(value)]
    assert total(chunks) == wanted and len(chunks) > 3
    message = step().invoke({question: "Why?", answer: AIMessage(ALIKE, id="m")})[answer]
    assert (message.text, message.id) == (want("Why?"), "m")


def test_list_of_content_blocks():
    wanted = [REASONING, {"type": "text", "text": want("x")}]
    chain = PROMPT | Upstream(answer=BLOCKS, disable_streaming=True) | (lambda message: message.content) | step()
    for after in (chain.invoke({"q": "x"}), *chain.stream({"q": "x"}), asyncio.run(chain.ainvoke({"q": "x"}))):
        assert after == wanted
    assert step().invoke({"question": "x", "answer": BLOCKS})["answer"] == wanted
    assert BLOCKS[1]["text"] == ALIKE


def test_messages_as_dicts_and_pairs():
    said = {"role": "assistant", "content": ALIKE, "name": "n"}
    asked_for = {"role": "user", "content": "Why?"}
    for after in ways([asked_for, said]):
        assert after == [asked_for, {**said, "content": want("Why?")}]
    for after in ways({"messages": [asked_for, said], "k": 1}):
        assert after == {"messages": [asked_for, {**said, "content": want("Why?")}], "k": 1}
    assert list(step().stream([("human", "Why?"), ("ai", ALIKE)])) == [[("human", "Why?"), ("ai", want("Why?"))]]
    assert step().invoke({"question": "Why?", "answer": said})["answer"] == {**said, "content": want("Why?")}
    in_blocks = {"role": "assistant", "content": BLOCKS}
    assert step().invoke([asked_for, in_blocks])[1]["content"] == [REASONING, {"type": "text", "text": want("Why?")}]
    assert said["content"] == ALIKE
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with_call = {**said, "tool_calls": [call]}
    assert step().invoke([asked_for, with_call]) == [asked_for, with_call]
    chain = PROMPT | Upstream() | (lambda m: {"role": "assistant", "content": m.text}) | step()
    assert chain.invoke({"q": "x"}) == {"role": "assistant", "content": want("x")}
    with pytest.raises(UnsupportedValueError, match="must end with the AIMessage to correct"):
        step().invoke([asked_for])
    with pytest.raises(UnsupportedValueError, match="These are no messages"):
        step().invoke([{"role": "nobody", "content": "x"}, said])


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"content": [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "I will not."}]}, "refusal"),
        ({"content": "I will not.", "additional_kwargs": {"refusal": "I will not."}}, "refusal"),
        ({"content": "I will not.", "response_metadata": {"stop_reason": "refusal"}}, "refusal"),
        ({"content": "It is so.", "additional_kwargs": {"parsed": Verdict(good=True)}}, "structured"),
    ],
)
def test_refusals_and_structured_output_are_left_alone(part, reason):
    before = AIMessage(**part)
    for after in (*ways(before), total(step().stream(before))):
        assert after.content == before.content
        record = after.response_metadata["aligner"]
        assert (record["outcome"], record["reason"]) == ("skipped", reason)


def test_structured_output_with_its_raw_message_is_left_alone():
    value = {"raw": AIMessage('Here: {"good": true}'), "parsed": Verdict(good=True), "parsing_error": None}
    for after in (*ways(value), *step().stream(value)):
        assert (after["parsed"], after["raw"].content) == (Verdict(good=True), 'Here: {"good": true}')
        assert after["raw"].response_metadata["aligner"]["reason"] == "structured"


def test_what_providers_say_about_the_old_text_goes_with_it():
    stale = {"logprobs_result": [1], "avg_logprobs": -0.1, "citation_metadata": {"citations": [1]}}
    grounding = {"web_search_queries": ["q"], "grounding_supports": [{"segment": {"end_index": 3}}]}
    before = full_message(**stale, grounding_metadata=grounding)
    after = step().invoke(asked(before))[-1].response_metadata
    assert not set(stale) & set(after)
    assert after["grounding_metadata"] == {"web_search_queries": ["q"]}
    kept = step(repeat).invoke(asked(before))[-1].response_metadata
    assert set(stale) <= set(kept) and kept["grounding_metadata"] == grounding
