"""What chat engines are used for, with and without an aligner: in all modes, by all methods, with what users and templates do."""

import asyncio
import copy
import gc
import pickle

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.chat_engine import CondenseQuestionChatEngine, SimpleChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.schema import QueryBundle

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend, Reader
from aligner_integrations.llama_index import AlignerChatEngine
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    TEMPLATE,
    Engine,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    blocks_of,
    cite,
    make_aligner,
    make_index,
    mend,
)
from tests.unit.llama_index.test_chat_engine import MODES, WAYS, make_engine, say

STREAMS = ["stream_chat", "astream_chat"]
MEMORIES = {"buffer": lambda: ChatMemoryBuffer.from_defaults(token_limit=4000), "default": Memory.from_defaults}


# A QueryBundle ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_a_query_bundle(mode, way, memory):
    """Its words are the question, and the user's message in the memory; for the engine it stays what it is."""
    fn, llm = Recorder(), ScriptedLLM()
    engine = AlignerChatEngine(
        make_index().as_chat_engine(chat_mode=mode, llm=llm, memory=MEMORIES[memory]()), make_aligner(fn)
    )
    for turn, words in enumerate(["Is it?", "Are you sure?"], start=1):
        query = QueryBundle(words, custom_embedding_strs=["idea"])
        response, shown = await say(engine, way, query)
        assert shown == str(response) == FIXED and query.custom_embedding_strs == ["idea"]
        assert [m.content for m in engine.chat_history] == ["Is it?", FIXED, "Are you sure?", FIXED][: 2 * turn]
    assert fn.questions == ["Is it?", "Are you sure?"]
    assert any("Is it?" in prompt for prompt in llm.prompts)  # the LLM was told it, too


# Streams ----------------------------------------------------------------------------------------------------------------


class _StreamOnly(MockLLM):
    """Refuses to answer at once, as some thinking models do."""

    reply: str = DRAFT

    def chat(self, messages, **kwargs):
        raise ValueError("This model only supports stream mode")

    def stream_chat(self, messages, **kwargs):
        shown = ""
        for word in self.reply.split(" "):
            delta = f" {word}" if shown else word
            shown += delta
            yield ChatResponse(message=ChatMessage(role="assistant", content=shown), delta=delta)

    def complete(self, prompt, formatted=False, **kwargs):
        raise ValueError("This model only supports stream mode")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        for chunk in self.stream_chat([]):
            yield type(super().complete("x"))(text=chunk.message.content, delta=chunk.delta)


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("mode", MODES)
async def test_a_model_that_only_streams(mode, way):
    engine = AlignerChatEngine(make_engine(mode, _StreamOnly()), make_aligner())
    response, shown = await say(engine, way, "Is it?")
    assert shown == FIXED and response.metadata["aligner"]["outcome"] == "corrected"
    assert [m.content for m in engine.chat_history] == ["Is it?", FIXED]
    assert DRAFT not in repr([response.sources, response.source_nodes, response.metadata])


class _Ahead(FakeBackend):
    """Keeps what it was given to read before the answer was complete."""

    def prefill(self, opening):
        backend, self.read = self, []

        class Kept(Reader):
            def feed(self, piece):
                backend.read.append(piece)

            def close(self):
                backend.read.append(None)

        return Kept()


@pytest.mark.parametrize("way", STREAMS)
async def test_a_chat_is_read_ahead(way):
    backend = _Ahead(mend)
    engine = AlignerChatEngine(make_engine("context", _StreamOnly()), Aligner(backend=backend, template=TEMPLATE))
    assert (await say(engine, way, "Is it?"))[1] == FIXED
    assert backend.read == ["It is", " a", " bad", " idea.", None]


@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_shows_nothing_before_it_is_corrected(way):
    """Not in its pieces, nor beside them: a condensed question's source is the upstream's own stream."""
    engine = AlignerChatEngine(make_engine("condense_question", _StreamOnly()), make_aligner())
    result = getattr(engine, way)("Is it?")
    response = await result if way.startswith("a") else result
    assert [source.raw_output.response for source in response.sources] == [""]
    pieces = response.async_response_gen() if way.startswith("a") else response.response_gen
    first = await anext(pieces) if way.startswith("a") else next(pieces)
    assert first == "It" and " bad" not in repr([response.sources, response.metadata])
    rest = [piece async for piece in pieces] if way.startswith("a") else list(pieces)
    assert first + "".join(rest) == FIXED
    assert [(source.content, source.raw_output.response) for source in response.sources] == [(FIXED, FIXED)]
    assert response.source_nodes


class _CannotStream(SimpleChatEngine):
    def stream_chat(self, message, chat_history=None):
        raise NotImplementedError

    async def astream_chat(self, message, chat_history=None):
        raise NotImplementedError


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("inner", ["engine", "query engine"])
async def test_what_cannot_stream_answers_at_once(inner, way):
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    if inner == "engine":
        engine = _CannotStream(ScriptedLLM(), memory, [])
    else:
        whole = Engine(lambda query: Response(DRAFT))
        engine = CondenseQuestionChatEngine.from_defaults(whole, llm=ScriptedLLM(), memory=memory)
    engine = AlignerChatEngine(engine, make_aligner())
    assert (await say(engine, way, "Is it?"))[1] == FIXED
    assert [m.content for m in engine.chat_history] == ["Is it?", FIXED]


@pytest.mark.parametrize("way", STREAMS)
async def test_another_error_is_no_reason_to_ask_again(way):
    class Broken(SimpleChatEngine):
        asked = 0

        def stream_chat(self, message, chat_history=None):
            Broken.asked += 1
            raise ValueError("no credit")

        async def astream_chat(self, message, chat_history=None):
            return self.stream_chat(message)

    engine = AlignerChatEngine(
        Broken(ScriptedLLM(), ChatMemoryBuffer.from_defaults(token_limit=99), []), make_aligner()
    )
    with pytest.raises(ValueError, match="no credit"):
        await say(engine, way, "Is it?")
    assert Broken.asked == 1 and engine.chat_history == []


# A stream that is not read to its end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [0, 1, 2])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("mode", ["simple", "context", "condense_question", "condense_plus_context"])
def test_of_an_abandoned_stream_the_users_words_stay(mode, held, pieces):
    engine = AlignerChatEngine(make_engine(mode), make_aligner())
    response = engine.stream_chat("My name is Ann.")
    stream = response.response_gen
    assert [next(stream) for _ in range(pieces)] == ["It", " is"][:pieces]
    assert "aligner" not in response.metadata
    if held and pieces:  # a generator that was never begun is closed without a word
        stream.close()
    else:
        del response, stream
    assert [m.content for m in engine.chat_history] == ["My name is Ann."]
    assert engine.chat("Is it?").response == FIXED
    assert [m.content for m in engine.chat_history] == ["My name is Ann.", "Is it?", FIXED]


@pytest.mark.parametrize("end", ["closed", "cancelled", "forgotten"])
@pytest.mark.parametrize("pieces", [0, 1, 2])
async def test_of_an_abandoned_asynchronous_stream_too(pieces, end):
    engine = AlignerChatEngine(make_engine("condense_plus_context"), make_aligner())
    begun = asyncio.Event()

    async def read():
        response = await engine.astream_chat("My name is Ann.")
        stream = response.async_response_gen()
        for _ in range(pieces):
            await anext(stream)
        begun.set()
        if end == "cancelled":
            await asyncio.sleep(60)
        if end == "closed" and pieces:
            await stream.aclose()

    task = asyncio.create_task(read())
    await begun.wait()
    if end == "cancelled":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del task
    for _ in range(200):  # until the event loop has closed what was forgotten
        if engine.chat_history:
            break
        gc.collect()
        await asyncio.sleep(0.01)
    assert [m.content for m in engine.chat_history] == ["My name is Ann."]


@pytest.mark.parametrize("pieces", [0, 1])
def test_an_abandoned_stream_of_an_aligner_around_an_aligner(pieces):
    engine = AlignerChatEngine(AlignerChatEngine(make_engine("simple"), make_aligner()), make_aligner())
    stream = engine.stream_chat("My name is Ann.")
    for _ in range(pieces):
        next(stream.response_gen)
    del stream
    assert [m.content for m in engine.chat_history] == ["My name is Ann."]


# Messages ---------------------------------------------------------------------------------------------------------------


class _OneMessage(FunctionLLM):
    def chat(self, messages, **kwargs):
        return ChatResponse(message=self._next(messages))


def simple(message, **options):
    llm = _OneMessage(replies=[message])
    return AlignerChatEngine(SimpleChatEngine.from_defaults(llm=llm), make_aligner(**options))


@pytest.mark.parametrize("way", ["chat", "achat"])
async def test_the_memory_of_an_answer_that_was_kept(way):
    blocks = [TextBlock(text="Paris is in France."), cite("1"), TextBlock(text=" Rome is in Italy."), cite("2")]
    message = ChatMessage(role="assistant", blocks=blocks)
    engine = simple(message)
    response, shown = await say(engine, way, "Is it?")
    assert response.metadata["aligner"]["outcome"] == "kept"
    assert shown == message.content
    assert engine.chat_history[-1].blocks == blocks


@pytest.mark.parametrize("way", ["chat", "achat"])
async def test_the_memory_of_an_answer_that_was_corrected(way):
    image = ImageBlock(url="https://example.org/a.png")
    blocks = [
        TextBlock(text="A look."),
        image,
        TextBlock(text="So it is."),
        cite("1"),
        TextBlock(text=f" {DRAFT}"),
        cite("2"),
    ]
    engine = simple(ChatMessage(role="assistant", blocks=blocks))
    response, shown = await say(engine, way, "Is it?")
    assert blocks_of(engine.chat_history[-1]) == ["A look.", "<image>", "So it is.", "<1>", f" {FIXED}"]
    assert shown == engine.chat_history[-1].content
    assert response.metadata["aligner"]["citations_lost"] == ["2"]


@pytest.mark.parametrize("way", WAYS)
async def test_of_a_blocked_answer_no_word_is_left(way):
    message = ChatMessage(
        role="assistant",
        blocks=[TextBlock(text="A bad look."), cite("bad"), TextBlock(text="<think>So bad.</think>It is bad.")],
        additional_kwargs={"reasoning_content": "bad"},
    )
    engine = simple(message, on_reject="block", accept=lambda *a: False, block_message="withheld")
    response, shown = await say(engine, way, "Is it?")
    assert shown == "withheld"
    assert " bad" not in repr([response.response, response.sources, response.metadata, engine.chat_history[1:]])


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_without_words(way):
    """Is no question: the answer is left alone, whatever was asked before."""
    fn = Recorder()
    engine = AlignerChatEngine(make_engine("simple"), make_aligner(fn))
    await say(engine, way, "Is it?")
    response, shown = await say(engine, way, QueryBundle("", image_path="a.png"))
    assert shown == DRAFT and response.metadata["aligner"]["reason"] == "no_question"
    assert fn.questions == ["Is it?"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_thought_in_the_answer(way):
    text = f"<think>A bad one asks.</think>\n{DRAFT}"
    fn = Recorder()
    engine = AlignerChatEngine(make_engine("simple", ScriptedLLM(reply=text)), make_aligner(fn))
    assert (await say(engine, way, "Is it?"))[1] == f"<think>A bad one asks.</think>\n{FIXED}"
    assert fn.prompts == [f"Q=Is it?;A={DRAFT};"]


# What only the wrapped engine has ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_the_callback_manager(mode):
    """Templates add a handler to it, or set another one."""
    inner = make_engine(mode)
    engine = AlignerChatEngine(inner, make_aligner())
    handler = LlamaDebugHandler(print_trace_on_end=False)
    engine.callback_manager.add_handler(handler)
    assert engine.callback_manager is inner.callback_manager
    engine.callback_manager.remove_handler(handler)  # it is the one that all of LlamaIndex shares
    engine.callback_manager = new = CallbackManager([])
    assert inner.callback_manager is new
    assert engine.chat("Is it?").response == FIXED


def test_attributes_of_the_wrapped_engine():
    inner = make_engine("simple")
    inner.colour = "blue"
    engine = AlignerChatEngine(inner, make_aligner())
    assert engine.colour == "blue" and not hasattr(engine, "no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = engine.no_such_thing
    with pytest.raises(AttributeError, match="_llm"):
        _ = engine._llm  # what is private is no way past the aligner
    assert copy.copy(engine).chat("Is it?").response == FIXED


def test_pickled():
    engine = AlignerChatEngine(
        SimpleChatEngine(ScriptedLLM(), ChatMemoryBuffer.from_defaults(token_limit=99), []), make_aligner()
    )
    assert pickle.loads(pickle.dumps(engine)).chat("Is it?").response == FIXED  # noqa: S301


class _WholeOnly(ScriptedLLM):
    def stream_chat(self, messages, **kwargs):
        raise NotImplementedError

    async def astream_chat(self, messages, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize("way", STREAMS)
async def test_a_model_that_cannot_stream_is_asked_at_once(way):
    engine = AlignerChatEngine(make_engine("simple", _WholeOnly()), make_aligner())
    assert (await say(engine, way, "Is it?"))[1] == FIXED
    assert [m.content for m in engine.chat_history] == ["Is it?", FIXED]  # once
