"""`AlignerLLM` inside of LlamaIndex: what asks an LLM for an answer gets a corrected one, what asks for anything else does not."""

import pytest
from llama_index.core import PromptTemplate, Settings
from llama_index.core.agent.workflow import CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.evaluation import FaithfulnessEvaluator, GuidelineEvaluator, RelevancyEvaluator
from llama_index.core.indices.query.query_transform.base import HyDEQueryTransform, StepDecomposeQueryTransform
from llama_index.core.indices.query.query_transform.feedback_transform import FeedbackQueryTransformation
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import PIINodePostprocessor
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.query_engine import FLAREInstructQueryEngine, RetryQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.workflow import StopEvent

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import AlignerFunctionCallingLLM, AlignerLLM, AlignerQueryEngine, with_aligner
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    QUESTION,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    Verdicts,
    calls,
    make_aligner,
    make_index,
    says,
)


def wrapped(fn=None, reply=DRAFT):
    return AlignerLLM(ScriptedLLM(reply=reply), make_aligner(fn or Recorder()))


@pytest.mark.parametrize("mode", ["simple", "context", "condense_plus_context", "condense_question", "best"])
async def test_as_the_llm_of_the_settings(mode, ask, monkeypatch):
    """It reaches what takes no synthesizer; the question is never the prompt that was made from it."""
    fn = Recorder()
    monkeypatch.setattr(Settings, "_llm", wrapped(fn))
    assert (await ask(make_index().as_query_engine())).response == FIXED
    chat = make_index().as_chat_engine(chat_mode=mode)
    for message in ("hello", "again"):
        assert chat.chat(message).response == FIXED
    assert [m.content for m in chat.chat_history][1::2] == [FIXED, FIXED]
    assert fn.questions[:2] == [QUESTION, "hello"]
    # A condensed question is what the engine under it is asked.
    assert fn.questions[2] == (DRAFT if mode == "condense_question" else "again")


@pytest.mark.parametrize("rich", [False, True])
async def test_a_template_of_the_users_own(ask, rich):
    fn = Recorder()
    template = (
        RichPromptTemplate("ANSWER {{ query_str }} FROM {{ context_str }}")
        if rich
        else PromptTemplate("ANSWER {query_str} FROM {context_str}")
    )
    engine = make_index().as_query_engine(llm=wrapped(fn), text_qa_template=template)
    assert (await ask(engine)).response == FIXED
    assert fn.questions == [QUESTION]


async def test_refining_corrects_each_step(ask):
    fn = Recorder()
    engine = make_index().as_query_engine(llm=wrapped(fn), response_mode="refine", similarity_top_k=3)
    assert (await ask(engine)).response == FIXED
    assert fn.questions == [QUESTION] * 3


async def test_under_a_retry_engine(ask, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", ScriptedLLM())
    fn = Recorder()
    engine = RetryQueryEngine(make_index().as_query_engine(llm=wrapped(fn)), Verdicts(False, True))
    assert (await ask(engine)).response == FIXED
    assert fn.questions == [QUESTION, QUESTION]


# What is for LlamaIndex alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FaithfulnessEvaluator, RelevancyEvaluator])
async def test_a_verdict_is_not_corrected(kind):
    """An evaluator asks through a query engine, as if the answer it judges were a question."""
    fn = Recorder(lambda prompt: "Well, that depends.")
    judge = kind(llm=wrapped(fn, "YES, not bad"))
    for result in (
        judge.evaluate(query=QUESTION, response=DRAFT, contexts=["a", "b"]),
        await judge.aevaluate(query=QUESTION, response=DRAFT, contexts=["a", "b"]),
    ):
        assert result.passing and result.feedback == "YES, not bad"
    assert fn.prompts == []
    custom = kind(llm=wrapped(fn, "YES"), eval_template=PromptTemplate("{query_str}? {context_str}"))
    assert not custom.evaluate(
        query=QUESTION, response=DRAFT, contexts=["a"]
    ).passing  # a prompt of one's own: no telling


async def test_what_only_llama_index_reads():
    fn = Recorder(lambda prompt: "CHANGED")
    bad = wrapped(fn, "a bad one")
    query = QueryBundle(QUESTION)
    assert HyDEQueryTransform(llm=bad).run(query).custom_embedding_strs == ["a bad one", QUESTION]
    step = StepDecomposeQueryTransform(llm=bad)
    assert step.run(query, {"prev_reasoning": "", "index_summary": "x"}).query_str == "a bad one"
    retry = FeedbackQueryTransformation(llm=bad, resynthesize_query=True)
    evaluation = Verdicts(False, feedback="worse").evaluate_response(QUESTION, type("R", (), {"response": DRAFT}))
    assert retry.run(query, {"evaluation": evaluation}).query_str.endswith("a bad one")
    items = '```json\n{"items":[{"sub_question":"a bad one","tool_name":"t"}]}\n```'
    questions = LLMQuestionGenerator.from_defaults(llm=wrapped(fn, items)).generate(
        [ToolMetadata(name="t", description="d")], query
    )
    assert [question.sub_question for question in questions] == ["a bad one"]
    guideline = GuidelineEvaluator(llm=wrapped(fn, '{"passing": true, "feedback": "not bad"}'))
    assert guideline.evaluate(query=QUESTION, response=DRAFT).feedback == "not bad"
    masked = PIINodePostprocessor(llm=wrapped(fn, 'a [NAME]\nOutput Mapping:\n{"NAME": "bad"}'))
    assert masked.mask_pii("a bad") == ("a [NAME]", {"NAME": "bad"})
    assert fn.prompts == []


async def test_flare_looks_ahead_with_tags(ask):
    fn = Recorder()
    engine = make_index().as_query_engine(llm=ScriptedLLM(reply="blue"))
    flare = FLAREInstructQueryEngine(engine, llm=wrapped(fn, "done It is a bad idea"), max_iterations=1)
    assert "bad" in (await ask(flare)).response  # its parts are no answers; align the engine
    assert fn.prompts == []
    aligned = AlignerQueryEngine(flare, make_aligner(fn))
    assert "good" in (await ask(aligned)).response and fn.questions == [QUESTION]


class _Fact(BaseModel):
    answer: str


def test_a_structured_llm_is_refused():
    with pytest.raises(ConfigurationError, match="pydantic_field"):
        with_aligner(ScriptedLLM().as_structured_llm(_Fact), make_aligner())


def test_what_is_set_is_set_on_the_wrapped_llm():
    llm = wrapped()
    llm.system_prompt = "Be brief."
    assert llm.llm.system_prompt == "Be brief."
    llm.chat([ChatMessage(role="user", content=QUESTION)])
    llm.predict(PromptTemplate("{query_str}"), query_str=QUESTION)
    assert "Be brief." in llm.llm.prompts[-1]


def test_what_stays_as_it_was_keeps_what_the_provider_said():
    raw = AlignerFunctionCallingLLM(llm=FunctionLLM(replies=[says("Fine.")]), aligner=make_aligner()).chat([]).raw
    assert raw == {"text": "Fine."}


# Agents -----------------------------------------------------------------------------------------------------------------


def add(a: int = 1, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


async def run(agent):
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    handler = agent.run(user_msg=QUESTION, memory=memory)
    events = [event async for event in handler.stream_events()]
    return await handler, events, memory.get_all()


async def test_a_plain_function_agent():
    """The tool call passes, the answer after it is corrected in the stream, the output and the memory."""
    fn = Recorder()
    llm = with_aligner(FunctionLLM(replies=[calls("add", a=1), says(DRAFT)]), make_aligner(fn))
    output, events, memory = await run(FunctionAgent(tools=[add], llm=llm))
    assert str(output) == FIXED and memory[-1].content == FIXED
    assert DRAFT not in f"{events}{memory}"
    assert fn.questions == [QUESTION]


async def test_a_code_agent_over_a_plain_llm():
    """It decides by the class whether its LLM calls functions; a plain LLM must not seem to."""

    async def execute(code: str) -> str:
        return "3"

    output, _, _ = await run(CodeActAgent(code_execute_fn=execute, tools=[], llm=wrapped()))
    assert str(output) == FIXED


@pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning")  # by LlamaIndex's agent
async def test_a_plain_react_agent_is_rewritten():
    """Its thoughts and actions are text like any other. `AlignerReActAgent` knows them apart, so the docstring names it."""
    fn = Recorder()
    agent = ReActAgent(tools=[add], llm=wrapped(fn, f"Thought: I can answer.\nAnswer: {DRAFT}"))
    assert str((await run(agent))[0]) == FIXED
    assert fn.prompts[0].startswith(f"Q={QUESTION};A=Thought: ")
    action = 'Thought: I need a tool\nAction: add\nAction Input: {"a": 1}'
    agent = ReActAgent(tools=[FunctionTool.from_defaults(add)], llm=wrapped(lambda prompt: "Polite.", action))
    _, events, _ = await run(agent)
    assert not [event for event in events if type(event).__name__ == "ToolCall"]
    assert any(isinstance(event, StopEvent) for event in events)
    assert "AlignerReActAgent" in AlignerLLM.__doc__
