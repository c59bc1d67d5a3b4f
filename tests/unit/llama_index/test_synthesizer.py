"""`AlignerSynthesizer` in LlamaIndex's own engines, which stay what they are."""

import pytest
from llama_index.core import PromptTemplate, get_response_synthesizer
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, StreamingResponse
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.query_engine import RetrieverQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.tools import QueryEngineTool

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import AlignerSynthesizer
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    Recorder,
    ScriptedLLM,
    make_aligner,
    make_index,
    make_nodes,
    read,
)

QUESTION = "Is it?"


def engine_with(fn=None, llm=None, **options):
    llm = llm or ScriptedLLM()
    synthesizer = AlignerSynthesizer(aligner=make_aligner(fn or Recorder()), llm=llm, **options)
    # The engine does not use its llm next to a synthesizer, but resolves Settings.llm if there is none.
    return make_index().as_query_engine(response_synthesizer=synthesizer, llm=llm, similarity_top_k=3)


@pytest.fixture(params=["sync", "async"])
def ask(request):
    async def call(engine, question):
        return engine.query(question) if request.param == "sync" else await engine.aquery(question)

    return call


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


async def test_a_structured_answer_is_left_alone(ask):
    class Fact(BaseModel):
        text: str

    fn = Recorder()
    response = await ask(engine_with(fn, ScriptedLLM(reply='{"text": "bad"}'), output_cls=Fact), QUESTION)
    assert isinstance(response, PydanticResponse)
    assert response.response.text == "bad"
    assert fn.prompts == []


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
