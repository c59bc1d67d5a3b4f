"""`AlignerSynthesizer` in LlamaIndex's own engines, which stay what they are."""

import pytest
from llama_index.core import PromptTemplate, Settings, get_response_synthesizer
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, StreamingResponse
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.indices.query.query_transform.base import StepDecomposeQueryTransform
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.query_engine import (
    CitationQueryEngine,
    FLAREInstructQueryEngine,
    MultiStepQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.query_engine.citation_query_engine import CITATION_QA_TEMPLATE, CITATION_REFINE_TEMPLATE
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import BaseSynthesizer, TreeSummarize
from llama_index.core.schema import QueryBundle
from llama_index.core.selectors import LLMMultiSelector
from llama_index.core.tools import QueryEngineTool

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import AlignerQueryEngine, AlignerSynthesizer
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    QUESTION,
    Recorder,
    ScriptedLLM,
    make_aligner,
    make_index,
    make_nodes,
    mend,
    read,
)


def engine_with(fn=None, llm=None, **options):
    llm = llm or ScriptedLLM()
    synthesizer = AlignerSynthesizer(aligner=make_aligner(fn or Recorder()), llm=llm, **options)
    # The engine does not use its llm next to a synthesizer, but resolves Settings.llm if there is none.
    return make_index().as_query_engine(response_synthesizer=synthesizer, llm=llm, similarity_top_k=3)


async def test_the_engine_stays_llama_indexs(ask):
    fn = Recorder()
    engine = engine_with(fn)
    assert isinstance(engine, RetrieverQueryEngine)
    assert isinstance(engine._response_synthesizer, BaseSynthesizer)
    response = await ask(engine, QUESTION)
    assert response.response == FIXED
    assert len(response.source_nodes) == 3
    assert response.metadata["aligner"]["outcome"] == "corrected"
    assert fn.questions == [QUESTION]


async def test_streams(ask):
    response = await ask(engine_with(streaming=True), QUESTION)
    assert isinstance(response, StreamingResponse | AsyncStreamingResponse)
    assert await read(response) == ["It", " is", " a", " good", " idea."]
    assert response.metadata["aligner"]["outcome"] == "corrected"


async def test_the_text_alone(ask):
    fn = Recorder()
    for streaming in (False, True):
        synthesizer = AlignerSynthesizer(aligner=make_aligner(fn), llm=ScriptedLLM(), streaming=streaming)
        text = synthesizer.get_response(QUESTION, ["a fact"])
        atext = await synthesizer.aget_response(QUESTION, ["a fact"])
        if streaming:
            text, atext = "".join(text), "".join([piece async for piece in atext])
        assert text == atext == FIXED
    assert fn.questions == [QUESTION] * 4


class _Fact(BaseModel):
    text: str


@pytest.mark.parametrize("field", [None, "text"])
async def test_a_structured_answer(ask, field):
    """Left alone, or corrected in the field that holds the answer."""
    fn, llm = Recorder(), ScriptedLLM(reply='{"text": "bad"}')
    engine = engine_with(fn, llm, output_cls=_Fact, pydantic_field=field)
    response = await ask(engine, QUESTION)
    assert isinstance(response, PydanticResponse)
    wanted = _Fact(text="good" if field else "bad")
    assert response.response == wanted
    synthesizer = engine._response_synthesizer
    assert synthesizer.get_response(QUESTION, ["a"]) == await synthesizer.aget_response(QUESTION, ["a"]) == wanted
    assert fn.questions == ([QUESTION] * 3 if field else [])


async def test_prompts_keep_their_names(ask):
    key, llm = "response_synthesizer:text_qa_template", ScriptedLLM()
    engine = engine_with(llm=llm)
    assert key in engine.get_prompts()
    engine.update_prompts({key: PromptTemplate("SHORT {query_str} FROM {context_str}")})
    await ask(engine, QUESTION)
    assert llm.prompts[0].startswith(f"SHORT {QUESTION} FROM ")


async def test_condensed_questions_stream_through_it():
    """The chat engine switches the synthesizer's streaming on from outside, and off again."""
    engine = engine_with()
    chat = CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=ScriptedLLM())
    assert "".join(chat.stream_chat("hello").response_gen) == FIXED
    assert chat.chat_history[-1].content == FIXED
    assert engine._response_synthesizer._streaming is False
    assert chat.chat("again").response == FIXED


async def test_sub_questions(ask):
    """Only the last answer goes through it, with the user's words."""
    reply = '```json\n{"items":[{"sub_question":"one","tool_name":"t"},{"sub_question":"two","tool_name":"t"}]}\n```'
    fn = Recorder()
    tool = QueryEngineTool.from_defaults(make_index().as_query_engine(llm=ScriptedLLM()), name="t", description="d")
    engine = SubQuestionQueryEngine.from_defaults(
        [tool],
        llm=ScriptedLLM(),
        question_gen=LLMQuestionGenerator.from_defaults(llm=ScriptedLLM(reply=reply)),
        response_synthesizer=AlignerSynthesizer(aligner=make_aligner(fn), llm=ScriptedLLM()),
        use_async=False,
        verbose=False,
    )
    assert (await ask(engine, QUESTION)).response == FIXED
    assert fn.questions == [QUESTION]


async def test_several_steps(ask):
    """MultiStepQueryEngine writes its own metadata over ours; the text is the corrected one."""
    fn, llm = Recorder(), ScriptedLLM()
    engine = MultiStepQueryEngine(
        make_index().as_query_engine(llm=llm),
        StepDecomposeQueryTransform(llm=llm),
        AlignerSynthesizer(aligner=make_aligner(fn), llm=llm),
        index_summary="facts",
        num_steps=1,
    )
    assert (await ask(engine, QUESTION)).response == FIXED
    assert fn.questions == [QUESTION]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_routers_summarizer(ask, streaming):
    """It is asked for the text alone, and the answers it sums up are drafts that nobody sees."""
    fn, llm = Recorder(), ScriptedLLM()
    tool = QueryEngineTool.from_defaults(make_index().as_query_engine(llm=llm), name="t", description="d")
    choice = '[{"choice": 1, "reason": "a"}, {"choice": 2, "reason": "b"}]'
    engine = RouterQueryEngine(
        LLMMultiSelector.from_defaults(llm=ScriptedLLM(reply=choice)),
        [tool, tool],
        llm=llm,
        summarizer=AlignerSynthesizer(TreeSummarize(llm=llm, streaming=streaming), make_aligner(fn)),
    )
    response = await ask(engine, QUESTION)
    assert "".join(await read(response)) == FIXED
    assert len(response.source_nodes) == 4
    assert fn.questions == [QUESTION]


MODES = [
    "refine",
    "compact",
    "tree_summarize",
    "simple_summarize",
    "generation",
    "accumulate",
    "compact_accumulate",
    "no_text",
    "context_only",
]


@pytest.mark.parametrize("mode", MODES)
async def test_every_response_mode(ask, mode):
    """The answer is corrected, and nothing before it; what is a list of answers, one by one."""
    fn, index = Recorder(lambda prompt: mend(prompt).replace("blue", "BLUE")), make_index()
    llm = ScriptedLLM()
    synthesizer = AlignerSynthesizer(aligner=make_aligner(fn), llm=llm, response_mode=mode)
    engine = index.as_query_engine(response_synthesizer=synthesizer, llm=llm, similarity_top_k=3)
    response = await ask(engine, QUESTION)
    corrections = {"no_text": 0, "accumulate": 3}.get(mode, 1)
    assert len(fn.prompts) == corrections and set(fn.questions) <= {QUESTION}
    assert len(response.source_nodes) == 3
    if mode == "accumulate":
        parts = [f"Response {i}: {FIXED}" for i in (1, 2, 3)]
        assert response.response == "\n---------------------\n".join(parts)
        assert len(llm.prompts) == 3
    elif mode == "compact_accumulate":
        assert response.response == f"Response 1: {FIXED}"
    elif mode == "no_text":
        assert response.response == ""
    elif mode == "context_only":
        assert response.response.count("the sky is BLUE") == 3
        assert all("the sky is blue" in node.text for node in response.source_nodes)
    else:
        assert response.response == FIXED
    assert len(llm.prompts) == {"refine": 3, "accumulate": 3, "no_text": 0, "context_only": 0}.get(mode, 1)


@pytest.mark.parametrize("mode", ["no_text", "context_only"])
async def test_modes_without_an_llm_need_none(mode, monkeypatch):
    """LlamaIndex asks for the LLM of the settings even so, which is an ImportError without the OpenAI package."""
    monkeypatch.setattr(type(Settings), "llm", property(lambda self: pytest.fail("Settings.llm was resolved")))
    for options in ({}, {"llm": ScriptedLLM()}):
        synthesizer = AlignerSynthesizer(aligner=make_aligner(), response_mode=mode, text_qa_template=None, **options)
        assert synthesizer.synthesize(QUESTION, make_nodes()).response == ("" if mode == "no_text" else FACTS)
        assert (await synthesizer.asynthesize(QUESTION, make_nodes())).response == ("" if mode == "no_text" else FACTS)


FACTS = "page: 1\n\nFact 1\n\npage: 2\n\nFact 2"


async def test_what_an_engine_ignores_next_to_a_synthesizer_is_given_to_it(ask):
    """as_query_engine drops llm, streaming, response_mode and templates without a word; here they count."""
    ignored, llm = ScriptedLLM(reply="ignored"), ScriptedLLM()
    template = PromptTemplate("ANSWER {query_str} FROM {context_str}")
    synthesizer = AlignerSynthesizer(
        aligner=make_aligner(), llm=llm, streaming=True, response_mode="simple_summarize", text_qa_template=template
    )
    engine = make_index().as_query_engine(
        llm=ignored, streaming=False, response_mode="accumulate", response_synthesizer=synthesizer
    )
    response = await ask(engine, QUESTION)
    assert isinstance(response, StreamingResponse | AsyncStreamingResponse)
    assert "".join(await read(response)) == FIXED
    assert llm.prompts[0].startswith(f"ANSWER {QUESTION} FROM ") and ignored.prompts == []


async def test_a_citation_engine(ask):
    """It gives its templates to its own synthesizer only, so they have to be given here; the engine's wrapper keeps them."""
    llm = ScriptedLLM(reply="It is bad, and the sky is blue [1].")
    aligner = make_aligner(lambda prompt: "The sky is blue.")
    plain = AlignerQueryEngine(CitationQueryEngine.from_args(make_index(), llm=llm), aligner)
    templates = {"text_qa_template": CITATION_QA_TEMPLATE, "refine_template": CITATION_REFINE_TEMPLATE}
    synthesizer = AlignerSynthesizer(aligner=aligner, llm=llm, **templates)
    inside = CitationQueryEngine.from_args(make_index(), llm=llm, response_synthesizer=synthesizer)
    for engine in (plain, inside):
        response = await ask(engine, QUESTION)
        assert response.response == "The sky is blue."  # less than three fifths of the cited sentence are left
        assert response.metadata["aligner"]["citations_lost"] == ["[1]"]
        assert response.source_nodes[0].text.startswith("Source 1:")
        assert "cite the appropriate source" in llm.prompts[-1]
    llm = ScriptedLLM(reply="The damn sky is blue [1].")
    engine = AlignerQueryEngine(CitationQueryEngine.from_args(make_index(), llm=llm), aligner)
    assert (await ask(engine, QUESTION)).response == "The sky is blue [1]."


class _Seen(BaseEventHandler):
    seen: list = []  # noqa: RUF012 - a pydantic field, copied for each instance

    def handle(self, event, **kwargs):
        text = getattr(getattr(event, "response", None), "response", None)
        self.seen.append((event.class_name(), text) if isinstance(text, str) else (event.class_name(), None))


async def test_events_in_their_order(ask):
    """Synthesis ends with the upstream's answer, then the correction starts and ends, and the query ends with it."""
    engine, root, handler = engine_with(), get_dispatcher(), _Seen()
    root.add_event_handler(handler)
    try:
        await ask(engine, QUESTION)
    finally:
        root.event_handlers.remove(handler)
    names = ("SynthesizeStartEvent", "SynthesizeEndEvent", "AlignStartEvent", "AlignEndEvent", "QueryEndEvent")
    assert [event for event in handler.seen if event[0] in names] == [
        ("SynthesizeStartEvent", None),
        ("SynthesizeEndEvent", DRAFT),
        ("AlignStartEvent", None),
        ("AlignEndEvent", None),
        ("QueryEndEvent", FIXED),
    ]


async def test_flare_finds_llama_indexs_engine_in_it():
    """Some engines retrieve through a RetrieverQueryEngine and nothing else; this is one still."""
    llm = ScriptedLLM(reply=f"done {DRAFT}")
    flare = FLAREInstructQueryEngine(engine_with(), llm=llm)
    assert len(flare.retrieve(QueryBundle(QUESTION))) == 3
    wrapped = AlignerQueryEngine(make_index().as_query_engine(llm=llm), make_aligner())
    with pytest.raises(NotImplementedError):
        FLAREInstructQueryEngine(wrapped, llm=llm).retrieve(QueryBundle(QUESTION))


def test_wrapping_changes_nothing_in_the_wrapped():
    inner = get_response_synthesizer(llm=ScriptedLLM(), streaming=True, callback_manager=CallbackManager([]))
    before = dict(vars(inner))
    AlignerSynthesizer(inner, make_aligner())
    assert vars(inner) == before


def test_the_inner_callback_manager_is_its_own():
    inner = get_response_synthesizer(llm=ScriptedLLM(), callback_manager=CallbackManager([]))
    manager = inner.callback_manager
    synthesizer = AlignerSynthesizer(inner, make_aligner())
    assert synthesizer.callback_manager is manager
    synthesizer.callback_manager = new = CallbackManager([])
    assert inner.callback_manager is new and inner._llm.callback_manager is new


async def test_given_nodes():
    synthesizer = AlignerSynthesizer(get_response_synthesizer(llm=ScriptedLLM()), make_aligner(), include_original=True)
    nodes = make_nodes()
    for response in (synthesizer.synthesize(QUESTION, nodes), await synthesizer.asynthesize(QUESTION, nodes)):
        assert response.source_nodes == nodes
        assert response.metadata["aligner"]["original"] == DRAFT


def test_what_cannot_be():
    inner = get_response_synthesizer(llm=ScriptedLLM())
    with pytest.raises(ConfigurationError, match=r"\['streaming'\]"):
        AlignerSynthesizer(inner, make_aligner(), streaming=True)
    with pytest.raises(ConfigurationError, match="got str"):
        AlignerSynthesizer("compact", make_aligner())
