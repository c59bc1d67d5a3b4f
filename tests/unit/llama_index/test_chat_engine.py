"""`AlignerChatEngine` around all of LlamaIndex's chat modes: on the screen, in memory, over two turns."""

import logging

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer

from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.llama_index import AlignerChatEngine
from tests.unit.llama_index.support import DRAFT, FIXED, Recorder, ScriptedLLM, fail, make_aligner, make_index

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


@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
async def test_a_stream_is_live_and_an_abandoned_one_leaves_nothing(way):
    engine = AlignerChatEngine(make_engine("context"), make_aligner())
    if way == "stream_chat":
        response = engine.stream_chat("Is it?")
        pieces = response.response_gen
        assert [next(pieces), next(pieces)] == ["It", " is"]
        pieces.close()
    else:
        response = await engine.astream_chat("Is it?")
        pieces = response.async_response_gen()
        assert [await anext(pieces), await anext(pieces)] == ["It", " is"]
        await pieces.aclose()
        await response.achat_stream.aclose()
    assert engine.chat_history == []
    assert response.source_nodes
    assert "aligner" not in (response.metadata or {})


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
