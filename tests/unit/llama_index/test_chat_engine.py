"""`AlignerChatEngine` around all of LlamaIndex's chat modes: on the screen, in memory, over two turns."""

import asyncio
import logging
import random

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.memory import BaseMemoryBlock, ChatMemoryBuffer, Memory
from llama_index.core.storage.chat_store.base_db import MessageStatus

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.llama_index import AlignerChatEngine
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    TEMPLATE,
    Recorder,
    ScriptedLLM,
    fail,
    make_aligner,
    make_index,
    mend,
)

MODES = ["simple", "context", "condense_question", "condense_plus_context", "best"]
WAYS = ["chat", "achat", "stream_chat", "astream_chat"]


def make_engine(mode, llm=None):
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    return make_index().as_chat_engine(chat_mode=mode, llm=llm or ScriptedLLM(), memory=memory)


async def say(engine, way, message, **kwargs):
    """Return (response, shown text) once all is read."""
    result = getattr(engine, way)(message, **kwargs)
    response = await result if way.startswith("a") else result
    if way == "stream_chat":
        return response, "".join(response.response_gen)
    if way == "astream_chat":
        return response, "".join([piece async for piece in response.async_response_gen()])
    return response, response.response


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_two_turns(mode, way):
    fn, llm = Recorder(), ScriptedLLM()
    engine = AlignerChatEngine(make_engine(mode, llm), make_aligner(fn))
    for turn, message in enumerate(["Is it?", "Are you sure?"], start=1):
        response, shown = await say(engine, way, message)
        assert shown == str(response) == FIXED
        assert [m.content for m in engine.chat_history] == ["Is it?", FIXED, "Are you sure?", FIXED][: 2 * turn]
        assert response.metadata["aligner"]["outcome"] == "corrected"
        assert response.metadata["aligner"]["question_from"] == "message"
        outputs = [(source.content, str(source.raw_output)) for source in response.sources]
        assert DRAFT not in str(response.metadata) + str(outputs)
        assert bool(response.source_nodes) == (mode != "simple")
    assert fn.questions == ["Is it?", "Are you sure?"]  # the user's words, whatever they were condensed to
    second = next(prompt for prompt in llm.prompts if "Are you sure?" in prompt)
    assert FIXED in second and DRAFT not in second  # the next turn is conditioned on what was shown
    engine.reset()
    assert engine.chat_history == []


@pytest.mark.parametrize("way", WAYS)
async def test_with_llama_indexs_default_memory(way):
    engine = AlignerChatEngine(SimpleChatEngine.from_defaults(llm=ScriptedLLM()), make_aligner())
    await say(engine, way, "Is it?")
    await say(engine, way, "Are you sure?")
    assert [m.content for m in engine.chat_history] == ["Is it?", FIXED, "Are you sure?", FIXED]


@pytest.mark.parametrize("way", WAYS)
async def test_a_given_history(way):
    engine = AlignerChatEngine(make_engine("simple"), make_aligner())
    history = [ChatMessage(role="user", content="Is it?"), ChatMessage(role="assistant", content=DRAFT)]
    await say(engine, way, "Is it?", chat_history=history)
    assert [m.content for m in engine.chat_history] == ["Is it?", DRAFT, "Is it?", FIXED]  # the caller's words stay


@pytest.mark.parametrize("way", WAYS)
async def test_a_failure_leaves_the_memory_as_it_was(way):
    engine = AlignerChatEngine(make_engine("context"), make_aligner(fail))
    with pytest.raises(BackendError):
        await say(engine, way, "Is it?")
    assert engine.chat_history == []


async def test_policies_are_the_aligners():
    engine = AlignerChatEngine(make_engine("context"), make_aligner(fail, on_error="block", block_message="withheld"))
    assert engine.chat("Is it?").response == "withheld"
    assert engine.chat_history[-1].content == "withheld"


async def test_include_original_and_sources():
    engine = AlignerChatEngine(make_engine("context"), make_aligner(), include_original=True)
    response = engine.chat("Is it?")
    assert response.metadata["aligner"]["original"] == DRAFT
    assert "sky is blue" in response.source_nodes[0].text


async def test_nothing_retrieved_is_left_alone():
    index, fn = make_index(), Recorder()
    index.delete_nodes([*index.docstore.docs])
    engine = AlignerChatEngine(index.as_chat_engine(chat_mode="condense_question", llm=ScriptedLLM()), make_aligner(fn))
    assert engine.chat("Is it?").response == "Empty Response"
    assert fn.prompts == []


def test_an_engine_without_a_memory_to_reach(caplog):
    inner = make_engine("simple")
    del inner._memory
    with caplog.at_level(logging.WARNING):
        AlignerChatEngine(inner, make_aligner())
    assert "SimpleChatEngine keeps its history where" in caplog.text


def test_what_cannot_be():
    with pytest.raises(ConfigurationError, match=r"got VectorStoreIndex.*as_chat_engine"):
        AlignerChatEngine(make_index(), make_aligner())
    with pytest.raises(ConfigurationError, match=r"\['rounds'\]"):
        AlignerChatEngine(make_engine("simple"), make_aligner(), rounds=2)


# Memory -----------------------------------------------------------------------------------------------------------------


class _Seen(BaseMemoryBlock[str]):
    """Keeps what a memory hands on when it is full."""

    seen: list = []  # noqa: RUF012 - a pydantic field, copied for each instance

    async def _aget(self, messages=None, **kwargs):
        return ""

    async def _aput(self, messages):
        self.seen += [message.content for message in messages]


@pytest.mark.parametrize("way", WAYS)
async def test_a_memory_that_is_full(way):
    """Older messages go on once, and only as they were shown; what went on stays out of the way."""
    block = _Seen(name="seen")
    memory = Memory.from_defaults(
        token_limit=60, token_flush_size=10, chat_history_token_ratio=0.5, memory_blocks=[block]
    )
    engine = AlignerChatEngine(SimpleChatEngine.from_defaults(llm=ScriptedLLM(), memory=memory), make_aligner())
    for i in range(9):
        await say(engine, way, f"Is it, number {i}?")
    assert [m.content for m in engine.chat_history][1::2] == [FIXED] * 9
    assert len(block.seen) > 4
    assert len({text for text in block.seen if text != FIXED}) == len([text for text in block.seen if text != FIXED])
    assert DRAFT not in block.seen
    assert len(await memory.aget_all(status=MessageStatus.ARCHIVED)) == len(block.seen)


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_limit_counts_the_message(way):
    """SimpleChatEngine reads its own message back: with it, no more than the limit goes to the LLM."""
    llm, memory = ScriptedLLM(), ChatMemoryBuffer.from_defaults(token_limit=20, tokenizer_fn=str.split)
    engine = AlignerChatEngine(SimpleChatEngine.from_defaults(llm=llm, memory=memory), make_aligner())
    for i in range(4):
        await say(engine, way, f"one two three four five six {i}")
    prompts = [prompt.replace("user:", "").replace("assistant:", "") for prompt in llm.prompts]
    assert all(len(prompt.split()) <= 20 for prompt in prompts)
    assert all(f"six {i}" in prompt for i, prompt in enumerate(prompts))
    assert "six 2" in prompts[3] and "six 1" not in prompts[3]
    await say(engine, way, "word " * 30)  # longer than the limit: the LLM sees at least this
    assert llm.prompts[-1].count("word") == 30


async def test_turns_that_overlap():
    """No turn sees another one's upstream answer, and each is remembered whole."""

    async def later(seconds):
        await asyncio.sleep(seconds)

    class Slow(FakeBackend):
        async def acomplete(self, requests):
            await later(random.uniform(0, 0.02))
            return FakeBackend.complete(self, requests)

    llm = ScriptedLLM()
    engine = AlignerChatEngine(make_engine("context", llm), Aligner(backend=Slow(mend), template=TEMPLATE))
    responses = await asyncio.gather(*(engine.achat(f"message {i}") for i in range(20)))
    assert [response.response for response in responses] == [FIXED] * 20
    history = [m.content for m in engine.chat_history]
    assert sorted(history) == sorted([f"message {i}" for i in range(20)] + [FIXED] * 20)
    assert all(DRAFT not in prompt for prompt in llm.prompts)


@pytest.mark.parametrize("way", WAYS)
async def test_an_aligner_around_an_aligner(way):
    inner = AlignerChatEngine(make_engine("context"), make_aligner())
    engine = AlignerChatEngine(
        inner, make_aligner(lambda prompt: prompt.partition(";A=")[2][:-1].replace("good", "fine"))
    )
    assert (await say(engine, way, "Is it?"))[1] == "It is a fine idea."
    assert [m.content for m in engine.chat_history] == [m.content for m in inner.chat_history]
    assert [m.content for m in engine.chat_history] == ["Is it?", "It is a fine idea."]


async def test_an_engine_that_forgets_its_answer(caplog):
    class Forgetful(SimpleChatEngine):
        def chat(self, message, chat_history=None):
            return AgentChatResponse(response=DRAFT)

    inner = Forgetful(ScriptedLLM(), ChatMemoryBuffer.from_defaults(token_limit=99), [])
    with caplog.at_level(logging.WARNING):
        assert AlignerChatEngine(inner, make_aligner()).chat("Is it?").response == FIXED
    assert "put no answer into its memory" in caplog.text
