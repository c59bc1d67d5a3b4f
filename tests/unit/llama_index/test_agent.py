"""Agents: the final answer is corrected in the stream, the output and the memory; no draft is shown anywhere."""

import pytest
from llama_index.core.agent.workflow import AgentWorkflow
from llama_index.core.agent.workflow.workflow_events import AgentOutput, AgentStream, ToolCall
from llama_index.core.llms import CustomLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool, QueryEngineTool

from aligner_integrations.errors import BackendError
from aligner_integrations.llama_index import AlignerFunctionAgent, AlignerQueryEngine, AlignerReActAgent
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    calls,
    fail,
    make_aligner,
    make_index,
    says,
)


def add(a: int = 1, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def faq(topic: str = "") -> str:
    """Answer from the list of questions."""
    return DRAFT


async def run(agent, message="Is it?"):
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    handler = agent.run(user_msg=message, memory=memory)
    events = [event async for event in handler.stream_events()]
    return await handler, events, memory.get_all()


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
    assert DRAFT not in "".join(map(repr, events)) + str(memory)
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


@pytest.mark.parametrize("kind", ["function", "react"])
async def test_a_tool_that_answers_directly(kind):
    fn, tool = Recorder(), FunctionTool.from_defaults(faq, return_direct=True)
    if kind == "function":
        agent = function_agent(calls("faq", topic="x"), fn=fn, tools=[tool])
    else:
        agent = react_agent('Thought: look\nAction: faq\nAction Input: {"topic": "x"}', fn=fn, tools=[tool])
    output, _, memory = await run(agent)
    assert str(output) == FIXED
    assert memory[-1].content.endswith(FIXED)
    assert fn.questions == ["Is it?"]


async def test_in_an_agent_workflow():
    fn = Recorder()
    first = function_agent(calls("handoff", to_agent="second", reason="bad luck"), name="first", description="d",
                           can_handoff_to=["second"], fn=fn)  # fmt: skip
    second = function_agent(says(DRAFT), name="second", description="d", fn=fn)
    output, events, memory = await run(AgentWorkflow(agents=[first, second], root_agent="first"))
    assert str(output) == FIXED and memory[-1].content == FIXED
    assert DRAFT not in repr(events)
    assert fn.questions == ["Is it?"]  # a hand-off is no answer


async def test_the_last_word_at_the_limit_of_steps():
    agent = function_agent(calls("add"), says(DRAFT), early_stopping_method="generate")
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    handler = agent.run(user_msg="Is it?", memory=memory, max_iterations=1)
    events = [event async for event in handler.stream_events()]
    assert str(await handler) == FIXED
    assert memory.get_all()[-1].content == FIXED
    assert DRAFT not in repr(events)


async def test_policies_are_the_aligners():
    with pytest.raises(BackendError, match="the aligner is down"):
        await run(function_agent(says(DRAFT), fn=fail))


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
    assert DRAFT not in repr(events) + str(memory)


async def test_an_attempt_that_cannot_be_read_is_not_shown():
    output, events, _ = await run(react_agent("", ANSWER))
    assert str(output) == FIXED
    agent = react_agent(f"Thought: hm\nAction: add\nAction Input: {{{DRAFT}", ANSWER)
    output, events, _ = await run(agent)
    assert str(output) == FIXED
    assert DRAFT not in "".join(streamed(events))
