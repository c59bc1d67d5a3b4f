"""Agents: the final answer is corrected in the stream, the output and the memory; no draft is shown anywhere."""

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
from llama_index.core.agent.workflow.workflow_events import AgentOutput, AgentStream, ToolCall, ToolCallResult
from llama_index.core.base.response.schema import Response, StreamingResponse
from llama_index.core.llms import CustomLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step

from aligner_integrations.errors import BackendError, ConfigurationError
from aligner_integrations.llama_index import (
    AlignerAgentWorkflow,
    AlignerFunctionAgent,
    AlignerLLM,
    AlignerQueryEngine,
    AlignerReActAgent,
    aalign_response,
)
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    Engine,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    calls,
    fail,
    make_aligner,
    make_index,
    make_nodes,
    response_of,
    says,
)


def add(a: int = 1, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def faq(topic: str = "") -> str:
    """Answer from the list of questions."""
    return DRAFT


async def run(agent, message="Is it?", **options):
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    handler = agent.run(user_msg=message, memory=memory, **options)
    events = [event async for event in handler.stream_events()]
    return await handler, events, memory.get_all()


def canary(*things):
    """All that can be read off events, outputs and messages."""
    return "".join(f"{thing!r}{thing}" for thing in things)


def streamed(events):
    return [event.delta for event in events if isinstance(event, AgentStream)]


def function_agent(*replies, fn=None, tools=(add,), **options):
    return AlignerFunctionAgent(
        tools=list(tools), llm=FunctionLLM(replies=list(replies)), aligner=make_aligner(fn or Recorder()), **options
    )


@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent(streaming):
    fn = Recorder()
    agent = function_agent(calls("add", a=1, b=2), says(DRAFT), fn=fn, streaming=streaming)
    output, events, memory = await run(agent)
    assert output.response.content == FIXED
    assert output.raw["aligner"]["outcome"] == "corrected"
    assert [call.tool_name for call in output.tool_calls] == ["add"]
    assert memory[-1].content == FIXED
    assert fn.questions == ["Is it?"]
    assert DRAFT not in canary(output, events, memory)
    assert [delta for delta in streamed(events) if delta] == (
        ["It", " is", " a", " good", " idea."] if streaming else []
    )
    assert [event.response.content for event in events if isinstance(event, AgentOutput)][-1] == FIXED


async def test_two_turns_in_one_memory():
    llm = FunctionLLM(replies=[says(DRAFT)])
    agent = AlignerFunctionAgent(tools=[add], llm=llm, aligner=make_aligner())
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    for message in ("Is it?", "Are you sure?"):
        assert (await agent.run(user_msg=message, memory=memory)).response.content == FIXED
    assert [m.content for m in memory.get_all()] == ["Is it?", FIXED, "Are you sure?", FIXED]
    assert [m.content for m in llm.seen[1]] == ["Is it?", FIXED, "Are you sure?"]


async def test_the_sources_are_the_tools():
    tool = QueryEngineTool.from_defaults(
        AlignerQueryEngine(make_index().as_query_engine(llm=ScriptedLLM()), make_aligner()), name="kb", description="d"
    )
    draft = "The bad sky is blue [1]."
    agent = function_agent(calls("kb", input="sky"), says(draft), fn=lambda prompt: "The sky is blue.", tools=[tool])
    output, events, _ = await run(agent)
    assert output.response.content == "The sky is blue [1]."
    assert FIXED in repr(events)  # the tool's own answer was corrected, too


def direct_agent(kind, tool, fn, argument="topic", **options):
    if kind == "function":
        return function_agent(calls("faq", **{argument: "x"}), fn=fn, tools=[tool], **options)
    action = f'Thought: look\nAction: faq\nAction Input: {{"{argument}": "x"}}'
    return react_agent(action, fn=fn, tools=[tool], **options)


@pytest.mark.parametrize("kind", ["function", "react"])
async def test_a_tool_that_answers_directly(kind):
    """Its output is the answer: corrected in its own event already, so that scratchpad and memory never hold another."""
    fn = Recorder()
    agent = direct_agent(kind, FunctionTool.from_defaults(faq, return_direct=True), fn)
    output, events, memory = await run(agent)
    assert str(output) == FIXED
    assert memory[-1].content.endswith(FIXED)
    assert fn.questions == ["Is it?"]  # once
    assert output.raw["aligner"]["outcome"] == "corrected"
    [result] = [event for event in events if type(event) is ToolCallResult]
    assert (result.tool_output.content, result.tool_output.raw_output) == (FIXED, FIXED)
    assert DRAFT not in canary(output, events, memory)


@pytest.mark.parametrize("kind", ["function", "react"])
@pytest.mark.parametrize("response", [Response, StreamingResponse])
async def test_a_query_engine_that_answers_directly(kind, response):
    engine = Engine(lambda query: response_of(response, DRAFT, source_nodes=make_nodes()))
    tool = QueryEngineTool.from_defaults(engine, name="faq", description="d", return_direct=True)
    output, events, memory = await run(direct_agent(kind, tool, Recorder(), argument="input"))
    assert str(output) == FIXED
    [result] = [event for event in events if type(event) is ToolCallResult]
    assert type(result.tool_output.raw_output) is Response
    assert result.tool_output.raw_output.source_nodes == make_nodes()
    assert DRAFT not in canary(output, events, memory)


@pytest.mark.parametrize("kind", ["function", "react"])
async def test_a_direct_tool_follows_the_policies(kind):
    tool = FunctionTool.from_defaults(faq, return_direct=True)
    with pytest.raises(BackendError, match="the aligner is down"):
        await run(direct_agent(kind, tool, fail))
    agent = direct_agent(kind, tool, fail)
    agent.aligner = agent.aligner.with_options(on_error="block", block_message="withheld")
    output, events, memory = await run(agent)
    assert str(output) == "withheld" and DRAFT not in canary(output, events, memory)


async def test_a_direct_tool_that_fails_or_wants_the_context():
    async def broken(topic: str = "") -> str:
        raise ValueError("no such topic")

    fn = Recorder()
    tool = FunctionTool.from_defaults(async_fn=broken, name="faq", return_direct=True)
    output, _, _ = await run(function_agent(calls("faq", topic="x"), says(DRAFT), fn=fn, tools=[tool]))
    assert str(output) == FIXED and fn.questions == ["Is it?"]  # the LLM has the last word, and it is corrected

    async def mine(ctx: Context, topic: str = "") -> str:
        return f"{await ctx.store.get('user_msg_str')} {DRAFT}"

    tool = FunctionTool.from_defaults(async_fn=mine, name="faq", return_direct=True)
    assert tool.requires_context
    output, _, _ = await run(function_agent(calls("faq", topic="x"), tools=[tool]))
    assert str(output) == f"Is it? {FIXED}"


async def test_a_direct_tool_that_came_later():
    """Found by a retriever, or set after the agent was made: corrected, too."""
    tool = FunctionTool.from_defaults(faq, return_direct=True)
    agent = function_agent(calls("faq", topic="x"), tools=[])
    agent.tools = [tool]
    output, events, memory = await run(agent)
    assert str(output) == FIXED and DRAFT not in canary(output, events, memory)
    agent = function_agent(calls("faq", topic="x"), tools=[], name="one", description="d")
    agent.tools = [tool]
    output, _, memory = await run(AgentWorkflow(agents=[agent]))  # it takes the tools from the agent by itself
    assert str(output) == FIXED and memory[-1].content == FIXED
    assert output.raw["aligner"]["outcome"] == "corrected"


async def test_in_an_agent_workflow():
    fn = Recorder()
    first = function_agent(calls("handoff", to_agent="second", reason="bad luck"), name="first", description="d",
                           can_handoff_to=["second"], fn=fn)  # fmt: skip
    second = function_agent(says(DRAFT), name="second", description="d", fn=fn)
    output, events, memory = await run(AgentWorkflow(agents=[first, second], root_agent="first"))
    assert str(output) == FIXED and memory[-1].content == FIXED
    assert DRAFT not in canary(output, events, memory)
    assert fn.questions == ["Is it?"]  # a hand-off is no answer


@pytest.mark.parametrize("kind", ["function", "react"])
async def test_a_direct_tool_in_an_agent_workflow(kind):
    agent = direct_agent(
        kind, FunctionTool.from_defaults(faq, return_direct=True), Recorder(), name="a", description="d"
    )
    other = function_agent(says(DRAFT), name="b", description="d")
    output, events, memory = await run(AgentWorkflow(agents=[agent, other], root_agent="a"))
    assert str(output) == FIXED and memory[-1].content.endswith(FIXED)
    assert DRAFT not in canary(output, events, memory)


# 0.14.0 has neither early stopping nor a second attempt after an empty answer.
needs_early_stopping = pytest.mark.skipif(
    not hasattr(BaseWorkflowAgent, "_get_llm_response"), reason="this LlamaIndex has no early stopping"
)


@needs_early_stopping
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("team", [False, True])
async def test_the_last_word_at_the_limit_of_steps(team, streaming):
    agent = function_agent(calls("add"), says(DRAFT), early_stopping_method="generate", streaming=streaming)
    if team:
        agent = AlignerAgentWorkflow(agents=[agent], early_stopping_method="generate")
    output, events, memory = await run(agent, max_iterations=1)
    assert str(output) == FIXED
    assert memory[-1].content == FIXED
    assert DRAFT not in canary(output, events, memory)
    assert "".join(streamed(events)) == (FIXED if streaming else "")


@needs_early_stopping
async def test_a_last_word_that_no_agent_sees_is_refused():
    agent = function_agent(calls("add"), says(DRAFT))
    with pytest.raises(ConfigurationError, match="Use AlignerAgentWorkflow instead"):
        await run(AgentWorkflow(agents=[agent], early_stopping_method="generate"), max_iterations=1)


async def test_structured_output_is_made_from_the_corrected_answer():
    async def last(messages):
        return {"last": messages[-1].content}

    output, events, memory = await run(function_agent(says(DRAFT), structured_output_fn=last))
    assert output.structured_response == {"last": FIXED}
    assert DRAFT not in canary(output, events, memory)


async def test_an_aligner_on_the_llm_is_not_used_twice():
    fn = Recorder()
    bare = _Script(replies=[ANSWER])
    agent = AlignerReActAgent(tools=[add], llm=AlignerLLM(llm=bare, aligner=make_aligner(fn)), aligner=make_aligner(fn))
    assert agent.llm is bare
    assert str((await run(agent))[0]) == FIXED
    assert fn.prompts == [f"Q=Is it?;A={DRAFT};"]


async def test_a_workflow_around_any_agent():
    """What to do for an agent without an aligned twin: its answer goes through a step, its stream stays inside."""

    class Around(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> StopEvent:
            agent = FunctionAgent(tools=[add], llm=FunctionLLM(replies=[calls("add"), says(DRAFT)]))
            draft = Response(str(await agent.run(user_msg=ev.message)))
            return StopEvent(result=await aalign_response(make_aligner(), ev.message, draft))

    handler = Around().run(message="Is it?")
    events = [event async for event in handler.stream_events()]
    assert str(await handler) == FIXED
    assert DRAFT not in canary(events)


async def test_policies_are_the_aligners():
    with pytest.raises(BackendError, match="the aligner is down"):
        await run(function_agent(says(DRAFT), fn=fail))


@pytest.mark.filterwarnings("ignore:Skipping serialization of known")  # the memory, which each run is given
@pytest.mark.parametrize("kind", ["function", "react"])
async def test_a_failed_correction_leaves_no_draft_behind(kind):
    """In the context, which may be used for another run."""
    replies = [says(DRAFT)] if kind == "function" else [ANSWER]
    agent = (function_agent if kind == "function" else react_agent)(*replies, fn=fail)
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    context = Context(agent)
    with pytest.raises(BackendError, match="the aligner is down"):
        await agent.run(user_msg="Is it?", memory=memory, ctx=context)
    agent.aligner = make_aligner()
    output = await agent.run(user_msg="Are you sure?", memory=memory, ctx=context)
    assert str(output) == FIXED
    assert DRAFT not in canary(memory.get_all())


# ReAct ------------------------------------------------------------------------------------------------------------------


class _Script(ScriptedLLM):
    """Says its replies one after the other."""

    replies: list[str]

    def complete(self, prompt, formatted=False, **kwargs):
        self.reply = self.replies[min(len(self.prompts), len(self.replies) - 1)]
        return super().complete(prompt, formatted, **kwargs)

    def stream_complete(self, prompt, formatted=False, **kwargs):
        self.reply = self.replies[min(len(self.prompts), len(self.replies) - 1)]
        return super().stream_complete(prompt, formatted, **kwargs)


def react_agent(*replies, fn=None, tools=(add,), **options):
    llm = _Script(replies=list(replies))
    return AlignerReActAgent(tools=list(tools), llm=llm, aligner=make_aligner(fn or Recorder()), **options)


ANSWER = f"Thought: I can answer without using any more tools.\nAnswer: {DRAFT}"


async def test_react_agent():
    assert issubclass(_Script, CustomLLM)
    fn = Recorder()
    action = 'Thought: I need a tool\nAction: add\nAction Input: {"a": 1, "b": 2}'
    output, events, memory = await run(react_agent(action, ANSWER, fn=fn))
    assert str(output) == FIXED
    assert output.raw["aligner"]["outcome"] == "corrected"
    assert [event.tool_name for event in events if type(event) is ToolCall] == ["add"]
    assert fn.questions == ["Is it?"]
    assert fn.prompts[0].partition(";A=")[2] == f"{DRAFT};"  # without the thought
    assert memory[-1].content.endswith(f"Answer: {FIXED}")
    assert DRAFT not in canary(output, events, memory)


@pytest.mark.parametrize(
    "attempt",
    [f"Thought: hm\nAction: add\nAction Input: {{{DRAFT}", pytest.param("", marks=needs_early_stopping)],
)
async def test_an_attempt_that_cannot_be_read_is_not_shown(attempt):
    output, events, _ = await run(react_agent(attempt, ANSWER))
    assert str(output) == FIXED
    assert DRAFT not in "".join(streamed(events))


async def test_an_answer_without_the_format():
    output, events, memory = await run(react_agent(DRAFT))
    assert str(output) == FIXED
    assert DRAFT not in canary(output, events, memory)


async def test_two_turns_of_react_in_one_memory():
    agent = react_agent(ANSWER)
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    for message in ("Is it?", "Are you sure?"):
        assert str(await agent.run(user_msg=message, memory=memory)) == FIXED
    assert DRAFT not in canary(memory.get_all(), agent.llm.prompts)
