"""Streams: chunks of the type that came in, word by word, that add up to what `invoke` returns."""

import asyncio

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables.utils import AddableDict

from tests.unit.langchain.support import (
    ALIKE,
    PROMPT,
    REASONING,
    USAGE,
    Upstream,
    asked,
    astreamed,
    full_message,
    repeat,
    step,
    total,
    want,
)


def astream(runnable, value):
    return asyncio.run(astreamed(runnable, value))


@pytest.mark.parametrize("way", [lambda r, v: list(r.stream(v)), astream])
def test_text_is_streamed_word_by_word(way):
    chunks = way(step(), {"question": "Why?", "answer": ALIKE})
    assert len(chunks) > 3
    assert total(chunks) == {"question": "Why?", "answer": want("Why?")}
    assert chunks[0] == {"question": "Why?"}
    chunks = way(PROMPT | Upstream() | (lambda message: message.text) | step(), {"q": "x"})
    assert len(chunks) > 3
    assert all(isinstance(chunk, str) for chunk in chunks)
    assert "".join(chunks) == want("x")


@pytest.mark.parametrize("way", [lambda r, v: list(r.stream(v)), astream])
def test_message_is_streamed_with_its_id_and_the_rest_last(way):
    before = full_message(logprobs={"content": [1]})
    chunks = way(step() | (lambda d: d["answer"]), {"question": "Why?", "answer": before})
    answers = [c["answer"] for c in way(step(), {"question": "Why?", "answer": before}) if "answer" in c]
    assert len(answers) > 3
    assert {(type(c), c.id, c.name) for c in answers} == {(AIMessageChunk, "msg-1", "writer")}
    assert all(not c.response_metadata and not c.usage_metadata for c in answers[:-1])
    assert answers[-1].chunk_position == "last"
    whole = total(answers)
    wanted = step().invoke({"question": "Why?", "answer": before})["answer"]
    for record in (whole.response_metadata["aligner"], wanted.response_metadata["aligner"]):
        del record["seconds"]
    for name in ("content", "id", "usage_metadata", "additional_kwargs", "response_metadata"):
        assert getattr(whole, name) == getattr(wanted, name)
    assert chunks[-1].text == want("Why?")


@pytest.mark.parametrize("fn", [None, repeat])
def test_streamed_blocks_add_up_to_what_invoke_returns(fn):
    block = {"type": "text", "text": ALIKE, "annotations": [{"a": 1}], "id": "t", "index": 1}
    for content in (
        [REASONING, block, {"type": "image", "url": "u"}],
        [{"type": "text", "text": ALIKE}],
        [{"type": "text", "text": "I do "}, {"type": "text", "text": "not know."}],
        ["I do not know."],
    ):
        value = {"question": "Why?", "answer": full_message(content)}
        runnable = step(fn) if fn else step()
        chunks = [c["answer"] for c in runnable.stream(value) if "answer" in c]
        wanted = runnable.invoke(value)["answer"]
        got = [
            {k: v for k, v in b.items() if k != "index"} if isinstance(b, dict) else b for b in total(chunks).content
        ]
        assert got == [
            {k: v for k, v in b.items() if k != "index"} if isinstance(b, dict) else b for b in wanted.content
        ]
        assert total(chunks).text == wanted.text
        single = len([b for b in content if isinstance(b, dict) and b["type"] == "text"]) == 1
        assert (len(chunks) > 2) == single


def test_lists_are_streamed_whole():
    before = asked(AIMessage(ALIKE))
    (after,) = step().stream(before)
    assert [m.text for m in after] == ["Why?", want("Why?")]
    (state,) = astream(step(), {"messages": before})
    assert state["messages"][-1].text == want("Why?")


def test_chunks_of_the_upstream_are_put_together():
    chunks = [AddableDict(question="Why?"), AddableDict(answer="I do "), AddableDict(answer="not know.")]
    assert total(step().transform(iter(chunks))) == {"question": "Why?", "answer": want("Why?")}
    messages = [AIMessageChunk("I do "), AIMessageChunk("not know.")]
    parts = [AddableDict(question="Why?"), *(AddableDict(answer=m) for m in messages)]
    assert total(step().transform(iter(parts)))["answer"].content == want("Why?")
    assert list(step().transform(iter([]))) == []


def test_upstream_that_cannot_stream():
    chain = PROMPT | Upstream(disable_streaming=True, message={"usage_metadata": USAGE}) | step()
    chunks = list(chain.stream({"q": "x"}))
    assert len(chunks) > 3
    whole = total(chunks)
    assert (whole.text, whole.usage_metadata) == (want("x"), USAGE)
