"""`with_aligner` picks the wrapper, or says why it cannot."""

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step

import aligner_integrations.llama_index as public
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import (
    AlignerChatEngine,
    AlignerFunctionCallingLLM,
    AlignerLLM,
    AlignerQueryEngine,
    AlignerSynthesizer,
    with_aligner,
)
from tests.unit.llama_index.support import DRAFT, FIXED, FunctionLLM, ScriptedLLM, make_aligner, make_index, says


class _Steps(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


def test_it_picks():
    llm, index, aligner = ScriptedLLM(), make_index(), make_aligner()
    functions = FunctionLLM(replies=[says(DRAFT)])
    for x, kind in [
        (index.as_query_engine(llm=llm), AlignerQueryEngine),
        (index.as_chat_engine(chat_mode="context", llm=llm), AlignerChatEngine),
        (get_response_synthesizer(llm=llm), AlignerSynthesizer),
        (llm, AlignerLLM),
        (functions, AlignerFunctionCallingLLM),
    ]:
        wrapped = with_aligner(x, aligner, include_original=True)
        assert type(wrapped) is kind
        assert wrapped.aligner is aligner
    response = with_aligner(index.as_query_engine(llm=llm), aligner, include_original=True).query("Is it?")
    assert (response.response, response.metadata["aligner"]["original"]) == (FIXED, DRAFT)


def test_or_says_why_not():
    llm, index = FunctionLLM(replies=[]), make_index()
    function_agent = FunctionAgent(llm=llm, tools=[], name="a", description="d")
    for x, words in [
        (index, "VectorStoreIndex.*as_query_engine"),
        (index.as_retriever(), "VectorIndexRetriever.*AlignerNodePostprocessor"),
        (function_agent, "AlignerFunctionAgent"),
        (ReActAgent(llm=llm, tools=[]), "AlignerReActAgent"),
        (AgentWorkflow(agents=[function_agent]), "each agent"),
        (_Steps(), "aalign_response"),
        ("gpt", "cannot wrap str; it takes a query engine"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            with_aligner(x, make_aligner())


def test_the_public_names():
    assert sorted(public.__all__) == sorted({*public.__all__})
    assert all(getattr(public, name).__doc__ for name in public.__all__)
