"""What LlamaIndex does that a wrapper can fall into, and that ours does not. Each test says both.

Those of one class only are in that class's file; see also `test_composition.py` and `test_agent.py`.
"""

import copy

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.response.schema import PydanticResponse, Response
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.types import BaseOutputParser

from aligner_integrations.errors import BackendError
from aligner_integrations.llama_index import (
    AlignerChatEngine,
    AlignerLLM,
    AlignerNodePostprocessor,
    AlignerQueryEngine,
    AlignerSynthesizer,
    align_response,
)
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    QUESTION,
    Engine,
    Recorder,
    ScriptedLLM,
    fail,
    make_aligner,
    make_index,
    make_nodes,
    read,
)


def wrapped(way, aligner, llm=None):
    """An aligned engine over a real index, by the query engine or by the synthesizer."""
    index, llm = make_index(), llm or ScriptedLLM()
    if way == "engine":
        return AlignerQueryEngine(index.as_query_engine(llm=llm), aligner)
    return index.as_query_engine(llm=llm, response_synthesizer=AlignerSynthesizer(aligner=aligner, llm=llm))


WAYS = ["engine", "synthesizer"]


async def test_an_invented_keyword(ask):
    """LlamaIndex swallows it without a word; ours refuse it."""
    engine = make_index().as_query_engine(llm=ScriptedLLM(), response_postprocessors=[make_aligner()])
    assert (await ask(engine)).response == DRAFT
    with pytest.raises(TypeError, match="response_postprocessors"):
        AlignerQueryEngine(make_index().as_query_engine(llm=ScriptedLLM()), response_postprocessors=[])
    with pytest.raises(TypeError, match="response_postprocessors"):
        AlignerSynthesizer(aligner=make_aligner(), llm=ScriptedLLM(), response_postprocessors=[])


class _Broken(BaseEventHandler):
    def handle(self, event, **kwargs):
        raise RuntimeError("a broken observer")


@pytest.mark.parametrize("way", WAYS)
async def test_event_handlers_swallow_errors(ask, way):
    """An aligner in an event handler would fail without a word. Ours needs none, and its errors are raised."""
    root, handlers = get_dispatcher(), [*get_dispatcher().event_handlers]
    try:
        for present in ([], [_Broken()]):
            root.event_handlers[:] = present
            assert (await ask(wrapped(way, make_aligner()))).response == FIXED
            with pytest.raises(BackendError, match="the aligner is down"):
                await ask(wrapped(way, make_aligner(fail)))
    finally:
        root.event_handlers[:] = handlers


@pytest.mark.parametrize("way", WAYS)
async def test_retrieving_does_not_arm_anything(ask, way):
    """Another engine's next answer is not ours to touch."""
    fn = Recorder()
    engine, other = wrapped(way, make_aligner(fn)), make_index().as_query_engine(llm=ScriptedLLM())
    engine.retrieve(QueryBundle("only retrieve"))
    await engine.aretrieve(QueryBundle("only retrieve"))
    assert (await ask(other)).response == DRAFT
    assert fn.prompts == []


async def test_two_postprocessors(ask):
    """The second one does not take the place of the first."""
    first, second = (lambda p: _answer(p).replace("sky", "Sky")), (lambda p: _answer(p).replace("blue", "Blue"))
    postprocessors = [AlignerNodePostprocessor(make_aligner(fn)) for fn in (first, second)]
    engine = make_index().as_query_engine(llm=ScriptedLLM(), node_postprocessors=postprocessors)
    response = await ask(engine)
    assert all("the Sky is Blue" in node.text for node in response.source_nodes)


def _answer(prompt):
    return prompt.partition(";A=")[2].removesuffix(";")


@pytest.mark.parametrize("mode", ["context", "condense_plus_context", "best", "condense_question"])
async def test_chat_engines_ignore_a_synthesizer(mode):
    """All but one drop it without a word; the wrapper around the chat engine does not depend on it."""
    llm = ScriptedLLM()
    synthesizer = AlignerSynthesizer(aligner=make_aligner(), llm=llm)
    inner = make_index().as_chat_engine(chat_mode=mode, llm=llm, response_synthesizer=synthesizer)
    assert inner.chat(QUESTION).response == (FIXED if mode == "condense_question" else DRAFT)
    inner.reset()
    engine = AlignerChatEngine(inner, make_aligner())
    assert engine.chat(QUESTION).response == FIXED
    assert engine.chat_history[-1].content == FIXED


@pytest.mark.parametrize("way", WAYS)
async def test_empty_response_is_a_signal(ask, way):
    """Also when sources were found and the LLM said nothing, and when nothing was found."""
    fn = Recorder(lambda prompt: "CHANGED")
    response = await ask(wrapped(way, make_aligner(fn), ScriptedLLM(reply="")))
    assert (response.response, bool(response.source_nodes)) == ("Empty Response", True)
    assert response.metadata["aligner"]["reason"] == "empty_response"
    empty = VectorStoreIndex([], embed_model=make_index()._embed_model).as_query_engine(llm=ScriptedLLM())
    assert (await ask(AlignerQueryEngine(empty, make_aligner(fn)))).response == "Empty Response"
    assert fn.prompts == []


class _Fact(BaseModel):
    answer: str


async def test_pydantic_response_answers_to_anything(ask):
    """hasattr() is true of every name, and copy.copy() never ends; the type alone is to be believed."""
    response = PydanticResponse(_Fact(answer="bad"), make_nodes())
    assert hasattr(response, "response_gen") and response.response_gen is None
    with pytest.raises(RecursionError):
        copy.copy(response)
    fn = Recorder()
    aligned = align_response(make_aligner(fn), QUESTION, response)
    assert type(aligned) is PydanticResponse and aligned.response is response.response
    llm = ScriptedLLM(reply='{"answer": "bad"}')
    for engine in (
        make_index().as_query_engine(llm=llm, output_cls=_Fact),
        make_index().as_query_engine(llm=llm.as_structured_llm(_Fact)),
    ):
        found = await ask(AlignerQueryEngine(engine, make_aligner(fn)))
        assert type(found) is PydanticResponse and found.response == _Fact(answer="bad")
        assert found.metadata["aligner"]["reason"] == "pydantic"
        found = await ask(AlignerQueryEngine(engine, make_aligner(), pydantic_field="answer"))
        assert found.response == _Fact(answer="good")
    assert fn.prompts == []


class _Parser(BaseOutputParser):
    def parse(self, output):
        return output.replace("bad", "parsed")


async def test_an_output_parser_is_no_hook(ask):
    """It sees no question, is left out by chat(), and cannot stream. An LLM that has one is left alone; engines are not."""
    llm, fn = ScriptedLLM(), Recorder(lambda prompt: _answer(prompt).replace("parsed", "good"))
    llm.output_parser = _Parser()
    assert (await ask(make_index().as_query_engine(llm=llm))).response == "It is a parsed idea."
    assert (await ask(make_index().as_query_engine(llm=AlignerLLM(llm, make_aligner(fn))))).response == (
        "It is a parsed idea."
    )
    assert fn.prompts == []
    assert (await ask(AlignerQueryEngine(make_index().as_query_engine(llm=llm), make_aligner(fn)))).response == FIXED


async def test_query_pipelines_are_gone():
    with pytest.raises(ImportError):
        import llama_index.core.query_pipeline  # noqa: F401


async def test_peers_call_the_underscored_members(ask):
    """Retry engines ask `_query`, which a CustomQueryEngine lacks; ours has both."""
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner())
    assert engine._query(QueryBundle(QUESTION)).response == FIXED
    assert (await engine._aquery(QueryBundle(QUESTION))).response == FIXED


async def test_each_call_is_a_span():
    """Of the asynchronous postprocessor, too, which LlamaIndex leaves out."""
    root, spans = get_dispatcher(), SimpleSpanHandler()
    root.add_span_handler(spans)
    try:
        synthesizer = AlignerSynthesizer(aligner=make_aligner(), llm=ScriptedLLM())
        postprocessor = AlignerNodePostprocessor(make_aligner())
        inner = RetrieverQueryEngine(make_index().as_retriever(), synthesizer, node_postprocessors=[postprocessor])
        engine = AlignerQueryEngine(inner, make_aligner())
        assert await read(engine.query(QUESTION)) == await read(await engine.aquery(QUESTION)) == [FIXED]
        chat = AlignerChatEngine(make_index().as_chat_engine(chat_mode="context", llm=ScriptedLLM()), make_aligner())
        chat.chat(QUESTION)
        await chat.achat(QUESTION)
        AlignerLLM(ScriptedLLM(), make_aligner()).chat([])
    finally:
        root.span_handlers.remove(spans)
    seen = {span.id_.partition("-")[0] for span in spans.completed_spans}
    assert seen >= {
        *(f"AlignerQueryEngine.{name}" for name in ("query", "_query", "aquery", "_aquery")),
        *(f"AlignerSynthesizer.{name}" for name in ("synthesize", "asynthesize")),
        *(f"AlignerNodePostprocessor.{name}" for name in ("_postprocess_nodes", "_apostprocess_nodes")),
        *(f"AlignerChatEngine.{name}" for name in ("chat", "achat")),
        "AlignerLLM.chat",
    }
