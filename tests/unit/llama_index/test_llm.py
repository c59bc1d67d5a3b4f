"""`AlignerLLM` and `AlignerFunctionCallingLLM`: answers are corrected, everything else is the wrapped LLM's."""

import logging
import pickle

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import FunctionTool

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import AlignerFunctionCallingLLM, AlignerLLM
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    calls,
    make_aligner,
    make_index,
    mend,
    says,
)

MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Is it?")]


def add(a: int = 1, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def wrapped(fn=None, llm=None, **options):
    return AlignerLLM(llm=llm or ScriptedLLM(), aligner=make_aligner(fn or Recorder()), **options)


def functional(*replies, fn=None, **options):
    return AlignerFunctionCallingLLM(
        llm=FunctionLLM(replies=list(replies)), aligner=make_aligner(fn or Recorder()), **options
    )


async def test_chat():
    fn = Recorder()
    llm = functional(says(DRAFT), fn=fn)
    for response in (llm.chat(MESSAGES), await llm.achat(MESSAGES)):
        assert response.message.content == FIXED
        assert response.raw is None  # it quotes the upstream
        assert response.additional_kwargs["total_tokens"] == 3
        assert response.additional_kwargs["aligner"]["outcome"] == "corrected"
        assert DRAFT not in str(response)
    assert fn.questions == ["Is it?"] * 2
    kept = functional(says(DRAFT), include_original=True).chat(MESSAGES)
    assert kept.raw == {"text": DRAFT} and kept.additional_kwargs["aligner"]["original"] == DRAFT


async def test_streams_of_a_chat():
    llm = functional(says(DRAFT))
    for chunks in (list(llm.stream_chat(MESSAGES)), [c async for c in await llm.astream_chat(MESSAGES)]):
        assert [chunk.delta for chunk in chunks] == ["It", " is", " a", " good", " idea.", ""]
        assert [chunk.message.content for chunk in chunks][-2:] == [FIXED, FIXED]
        assert chunks[-1].additional_kwargs["aligner"]["outcome"] == "corrected"
        assert " bad" not in str(chunks)


async def test_tool_calls_pass_through():
    fn = Recorder()
    llm = functional(calls("add", "I bad add", a=1), fn=fn)
    assert isinstance(llm, FunctionCallingLLM)
    assert llm.metadata.is_function_calling_model
    tool = FunctionTool.from_defaults(add)
    responses = [
        llm.chat_with_tools([tool], user_msg="Is it?"),
        await llm.achat_with_tools([tool], user_msg="Is it?"),
        list(llm.stream_chat_with_tools([tool], user_msg="Is it?"))[-1],
        [c async for c in await llm.astream_chat_with_tools([tool], user_msg="Is it?")][-1],
    ]
    for response in responses:
        [call] = llm.get_tool_calls_from_response(response)
        assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 1})
    assert fn.prompts == []
    assert llm.predict_and_call([tool], user_msg="Is it?").response == "3"


async def test_an_answer_next_to_tools_is_corrected():
    llm = functional(says(DRAFT))
    assert llm.chat_with_tools([FunctionTool.from_defaults(add)], user_msg="Is it?").message.content == FIXED


async def test_query_engines_ask_with_the_users_words():
    fn, index = Recorder(), make_index()
    for streaming in (False, True):
        engine = index.as_query_engine(llm=wrapped(fn), streaming=streaming)
        assert str(engine.query("Is it?")) == FIXED
        response = await engine.aquery("Is it?")
        assert (await response.get_response()).response == FIXED if streaming else response.response == FIXED
    assert fn.questions == ["Is it?"] * 4


async def test_chat_engines_ask_with_the_users_words():
    fn = Recorder()
    engine = make_index().as_chat_engine(chat_mode="context", llm=wrapped(fn))
    assert engine.chat("Is it?").response == FIXED
    assert (await engine.achat("Are you sure?")).response == FIXED
    assert [m.content for m in engine.chat_history][1::2] == [FIXED, FIXED]
    assert fn.questions == ["Is it?", "Are you sure?"]


class _Fact(BaseModel):
    text: str


async def test_what_is_no_answer_is_left_alone():
    fn = Recorder()
    choice = wrapped(fn, ScriptedLLM(reply='[{"choice": 1, "reason": "bad"}]'))
    assert LLMSingleSelector.from_defaults(llm=choice).select(["a", "b"], "Is it?").selections[0].reason == "bad"
    fact = wrapped(fn, ScriptedLLM(reply='{"text": "bad"}'))
    assert fact.structured_predict(_Fact, PromptTemplate("{query_str}"), query_str="Is it?").text == "bad"
    assert (await fact.astructured_predict(_Fact, PromptTemplate("{query_str}"), query_str="Is it?")).text == "bad"
    assert fact.as_structured_llm(_Fact).complete("Is it?").text == '{"text":"bad"}'
    llm = wrapped(fn)
    sql = PromptTemplate("{query_str}", prompt_type=PromptType.TEXT_TO_SQL)
    assert llm.predict(sql, query_str="Is it?") == await llm.apredict(sql, query_str="Is it?") == DRAFT
    assert llm.predict(PromptTemplate("{question}"), question="Is it?") == DRAFT
    assert llm.complete("Is it?").text == (await llm.acomplete("Is it?")).text == DRAFT
    assert "".join(piece.delta for piece in llm.stream_complete("Is it?")) == DRAFT
    assert "".join([piece.delta async for piece in await llm.astream_complete("Is it?")]) == DRAFT
    assert fn.prompts == []


def test_tokens_are_counted_once():
    counts = []
    for llm in (ScriptedLLM(), wrapped()):
        counter = TokenCountingHandler(tokenizer=str.split)
        llm.callback_manager = CallbackManager([counter])
        llm.chat(MESSAGES)
        counts.append(len(counter.llm_token_counts))
    assert counts[0] == counts[1] > 0


def test_serialised():
    llm = wrapped()
    assert llm.metadata.model_name == "scripted"
    data = llm.to_dict()
    assert data["class_name"] == "aligner_llm" and "aligner" not in data
    assert data["llm"]["reply"] == DRAFT


def test_pickled(caplog):
    restored = pickle.loads(pickle.dumps(AlignerLLM(ScriptedLLM(), make_aligner(mend))))  # noqa: S301
    assert restored.chat(MESSAGES).message.content == FIXED
    with caplog.at_level(logging.ERROR):
        restored = pickle.loads(pickle.dumps(wrapped(lambda prompt: "x")))  # noqa: S301
    with pytest.raises(ConfigurationError, match=r"no aligner.*Set its \.aligner"):
        restored.chat(MESSAGES)
    restored.aligner = make_aligner()
    assert restored.chat(MESSAGES).message.content == FIXED


def test_what_cannot_be():
    with pytest.raises(ConfigurationError, match="FunctionLLM goes into AlignerFunctionCallingLLM"):
        AlignerLLM(llm=FunctionLLM(replies=[]), aligner=make_aligner())
    with pytest.raises(ConfigurationError, match="ScriptedLLM goes into AlignerLLM"):
        AlignerFunctionCallingLLM(llm=ScriptedLLM(), aligner=make_aligner())
    with pytest.raises(ConfigurationError, match="got str"):
        AlignerLLM(llm="gpt", aligner=make_aligner())
    with pytest.raises(ConfigurationError, match=r"\['rounds'\]"):
        wrapped(rounds=2)
