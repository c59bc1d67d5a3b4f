"""`AlignerQueryEngine` around real engines over a real index in memory."""

import copy

import pytest
from llama_index.core import PromptTemplate, get_response_synthesizer
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.query import QueryEndEvent
from llama_index.core.query_engine import CustomQueryEngine, RetrieverQueryEngine
from llama_index.core.schema import QueryBundle

import aligner_integrations
from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import BackendError, ConfigurationError, RejectedCorrectionError
from aligner_integrations.llama_index import AlignerQueryEngine, corrector
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    TEMPLATE,
    Engine,
    Kept,
    Recorder,
    ScriptedLLM,
    fail,
    make_aligner,
    make_index,
    read,
)

QUESTION = "Is it a {good} idea; or A=1?"  # braces and marks of the template are plain text in a question


@pytest.fixture
def index():
    return make_index()


# Answers ----------------------------------------------------------------------------------------------------------------


async def test_answer_sources_and_record(index, ask):
    llm, fn = ScriptedLLM(), Recorder()
    inner = Kept(index.as_query_engine(llm=llm, similarity_top_k=3))
    response = await ask(AlignerQueryEngine(inner, make_aligner(fn)), QUESTION)
    [upstream] = inner.returned
    assert type(response) is Response
    assert (upstream.response, response.response) == (DRAFT, FIXED)
    assert len(response.source_nodes) == 3
    assert [n.to_json() for n in response.source_nodes] == [n.to_json() for n in upstream.source_nodes]
    assert response.metadata == {**upstream.metadata, "aligner": response.metadata["aligner"]}
    assert len(upstream.metadata) == 3  # one entry a node, and none of ours
    assert response.metadata["aligner"]["outcome"] == "corrected"
    assert response.metadata["aligner"]["question_from"] == "query"
    assert DRAFT not in str(response.metadata)
    # The aligner reads the user's words; the LLM has read the prompt that was built from them.
    assert fn.prompts == [f"Q={QUESTION};A={DRAFT};"]
    assert "Context information is below" in llm.prompts[0]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_streams(index, asynchronous):
    inner = Kept(index.as_query_engine(llm=ScriptedLLM(), streaming=True, similarity_top_k=3))
    engine = AlignerQueryEngine(inner, make_aligner())
    response = await engine.aquery(QUESTION) if asynchronous else engine.query(QUESTION)
    [upstream] = inner.returned
    assert type(response) is (AsyncStreamingResponse if asynchronous else StreamingResponse)
    assert len(response.source_nodes) == 3
    assert [n.to_json() for n in response.source_nodes] == [n.to_json() for n in upstream.source_nodes]
    assert upstream.response_txt is None  # nothing has been read yet
    assert await read(response) == ["It", " is", " a", " good", " idea."]
    assert response.metadata["aligner"]["outcome"] == "corrected"
    assert DRAFT not in str(response.metadata)
    assert upstream.response_txt == DRAFT


def test_printing_a_stream(index, capsys):
    AlignerQueryEngine(index.as_query_engine(llm=ScriptedLLM(), streaming=True), make_aligner()).query(
        QUESTION
    ).print_response_stream()
    assert capsys.readouterr().out == FIXED


async def test_a_query_bundle(ask):
    fn, inner = Recorder(), Engine(lambda query: Response(DRAFT))
    await ask(
        AlignerQueryEngine(inner, make_aligner(fn)), QueryBundle("my words", custom_embedding_strs=["other words"])
    )
    assert fn.questions == ["my words"]
    assert inner.queries == ["my words"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_nothing_retrieved(index, ask, streaming):
    fn = Recorder(lambda prompt: "CHANGED")
    index.delete_nodes([*index.docstore.docs])
    engine = AlignerQueryEngine(index.as_query_engine(llm=ScriptedLLM(), streaming=streaming), make_aligner(fn))
    response = await ask(engine, QUESTION)
    assert await read(response) == ["Empty Response"]
    assert response.metadata["aligner"]["reason"] == "empty_response"
    assert fn.prompts == []


async def test_a_custom_query_engine(ask):
    class Plain(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            return f"{query_str} {DRAFT}"

    response = await ask(AlignerQueryEngine(Plain(), make_aligner()), "Well:")
    assert response.response == f"Well: {FIXED}"


async def test_include_original(ask):
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner(), include_original=True)
    assert (await ask(engine, QUESTION)).metadata["aligner"]["original"] == DRAFT


# Retrieve and synthesize ------------------------------------------------------------------------------------------------


async def test_retrieve_is_the_inner_engines(index):
    inner = index.as_query_engine(llm=ScriptedLLM(), similarity_top_k=3)
    fn = Recorder()
    engine = AlignerQueryEngine(inner, make_aligner(fn))
    query = QueryBundle(QUESTION)
    wanted = sorted(node.to_json() for node in inner.retrieve(query))
    assert len(wanted) == 3
    assert sorted(node.to_json() for node in engine.retrieve(query)) == wanted
    assert sorted(node.to_json() for node in await engine.aretrieve(query)) == wanted
    assert engine.retriever is inner.retriever
    assert fn.prompts == []


@pytest.mark.parametrize("query", [QueryBundle(QUESTION), QUESTION])
async def test_synthesize_is_aligned(index, query):
    fn = Recorder()
    engine = AlignerQueryEngine(index.as_query_engine(llm=ScriptedLLM(), similarity_top_k=2), make_aligner(fn))
    nodes = engine.retrieve(QueryBundle(QUESTION))
    for response in (
        engine.synthesize(query, nodes[:1], additional_source_nodes=nodes[1:]),
        await engine.asynthesize(query, nodes[:1], additional_source_nodes=nodes[1:]),
    ):
        assert response.response == FIXED
        assert response.source_nodes == nodes
    assert fn.questions == [QUESTION, QUESTION]


async def test_what_the_inner_engine_cannot_do(ask):
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner())
    query = QueryBundle(QUESTION)
    with pytest.raises(NotImplementedError, match="does not support retrieve"):
        engine.retrieve(query)
    with pytest.raises(NotImplementedError, match="Engine does not support aretrieve"):
        await engine.aretrieve(query)
    with pytest.raises(NotImplementedError, match="does not support synthesize"):
        engine.synthesize(query, [])
    with pytest.raises(NotImplementedError, match="does not support asynthesize"):
        await engine.asynthesize(query, [])
    with pytest.raises(AttributeError, match="retriever"):
        _ = engine.retriever


# Prompts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2])
async def test_prompts_are_reached_and_updated_through_the_wrapper(index, ask, depth):
    key, llm = "response_synthesizer:text_qa_template", ScriptedLLM()
    inner = engine = index.as_query_engine(llm=llm)
    for _ in range(depth):
        engine = AlignerQueryEngine(engine, make_aligner())
    assert key in engine.get_prompts()
    assert engine.get_prompts() == inner.get_prompts()
    engine.update_prompts({key: PromptTemplate("SHORT {query_str} FROM {context_str}")})
    assert inner.get_prompts()[key].template == "SHORT {query_str} FROM {context_str}"
    await ask(engine, QUESTION)
    assert llm.prompts[0].startswith(f"SHORT {QUESTION} FROM ")


# Traces -----------------------------------------------------------------------------------------------------------------


async def test_legacy_callbacks(index, ask):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([debug])
    synthesizer = get_response_synthesizer(llm=ScriptedLLM(), callback_manager=manager)
    inner = RetrieverQueryEngine(index.as_retriever(), synthesizer)
    engine = AlignerQueryEngine(inner, make_aligner())
    assert engine.callback_manager is manager
    await ask(engine, QUESTION)
    pairs = debug.get_event_pairs(CBEventType.QUERY)
    assert [start.payload[EventPayload.QUERY_STR] for start, _ in pairs] == [QUESTION, QUESTION]
    assert sorted(end.payload[EventPayload.RESPONSE].response for _, end in pairs) == [DRAFT, FIXED]


def test_a_callback_manager_of_its_own():
    manager = CallbackManager([])
    assert AlignerQueryEngine(Engine(None), make_aligner(), callback_manager=manager).callback_manager is manager


class _Ends(BaseEventHandler):
    """Keeps the responses that query-end events carry."""

    responses: list = []  # noqa: RUF012 - a pydantic field, copied for each instance

    def handle(self, event, **kwargs):
        if isinstance(event, QueryEndEvent):
            self.responses.append((event.response, event.response.response))


async def test_events_keep_what_each_engine_said(ask):
    root, ends = get_dispatcher(), _Ends()
    root.add_event_handler(ends)
    try:
        response = await ask(AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner()), QUESTION)
    finally:
        root.event_handlers.remove(ends)
    (inner, inner_then), (outer, outer_then) = ends.responses
    assert (inner_then, outer_then) == (DRAFT, FIXED)
    assert inner.response == DRAFT  # still, after the correction
    assert outer is response


# Errors, by policy ------------------------------------------------------------------------------------------------------


async def test_an_error_is_raised_by_default(ask):
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner(fail))
    with pytest.raises(BackendError, match="the aligner is down"):
        await ask(engine, QUESTION)


@pytest.mark.parametrize(("policy", "shown"), [("keep", DRAFT), ("block", "withheld")])
async def test_on_error(ask, policy, shown):
    aligner = make_aligner(fail, on_error=policy, block_message="withheld")
    response = await ask(AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), aligner), QUESTION)
    assert response.response == shown
    assert response.metadata["aligner"]["outcome"] == "failed"


async def test_on_reject(ask):
    aligner = make_aligner(accept=lambda *texts: False, on_reject="raise")
    with pytest.raises(RejectedCorrectionError):
        await ask(AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), aligner), QUESTION)


async def test_the_upstreams_error_is_not_touched(ask):
    def broken(query):
        raise ConnectionError("no network")

    fn = Recorder()
    with pytest.raises(ConnectionError, match="no network"):
        await ask(AlignerQueryEngine(Engine(broken), make_aligner(fn, on_error="keep")), QUESTION)
    assert fn.prompts == []


# Construction -----------------------------------------------------------------------------------------------------------


async def test_options_go_to_the_aligner(ask):
    engine = AlignerQueryEngine(
        Engine(lambda query: Response(DRAFT)),
        backend=FakeBackend(fail),
        template=TEMPLATE,
        on_error="block",
        block_message="withheld",
    )
    assert (await ask(engine, QUESTION)).response == "withheld"


def test_the_default_aligner(monkeypatch):
    made = []
    monkeypatch.setattr(
        corrector, "Aligner", lambda **options: made.append(options) or Aligner(backend=FakeBackend(fail))
    )
    monkeypatch.setattr(corrector.Corrector, "__post_init__", lambda self: None)  # checks the type just replaced
    assert AlignerQueryEngine(Engine(None)).aligner.backend.fn is fail
    assert made == [{}]


def test_an_aligner_and_options():
    with pytest.raises(ConfigurationError, match=r"\['rounds'\]"):
        AlignerQueryEngine(Engine(None), make_aligner(), rounds=2)


def test_something_that_is_no_query_engine(index):
    with pytest.raises(ConfigurationError, match=r"got VectorStoreIndex.*as_query_engine"):
        AlignerQueryEngine(index, make_aligner())


def test_the_top_level_name():
    assert aligner_integrations.AlignerQueryEngine is AlignerQueryEngine


async def test_what_only_the_wrapped_engine_has(ask):
    """Is read through this one; another retriever gives an engine that is aligned, too."""
    inner = make_index().as_query_engine(llm=ScriptedLLM())
    engine = AlignerQueryEngine(inner, make_aligner())
    assert engine.retriever is inner.retriever
    other = engine.with_retriever(make_index().as_retriever(similarity_top_k=1))
    response = await ask(other)
    assert response.response == FIXED and len(response.source_nodes) == 1
    assert len((await ask(engine)).source_nodes) == 2
    assert not hasattr(engine, "no_such_thing") and not hasattr(engine, "_response_synthesizer")
    with pytest.raises(AttributeError, match="retriever"):
        _ = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner()).retriever


async def test_copied(ask):
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner())
    assert (await ask(copy.copy(engine))).response == FIXED
