"""What aligned agents do to an LLM's messages: blocks, thoughts, what is withheld, and messages without words."""

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.agent.workflow.workflow_events import AgentStream
from llama_index.core.llms import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool, ToolOutput

from aligner_integrations.llama_index import AlignerFunctionAgent, AlignerReActAgent
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    FunctionLLM,
    Recorder,
    ScriptedLLM,
    blocks_of,
    calls,
    cite,
    fail,
    make_aligner,
    says,
)

IMAGE = ImageBlock(url="https://example.org/a.png")
BLOCKED = [{"on_error": "block"}, {"on_reject": "block", "accept": lambda *a: False}]


def add(a: int = 1, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


class _Thinks(FunctionLLM):
    """Thinks before each message, in chunks of their own."""

    async def astream_chat(self, messages, **kwargs):
        message = self._next(messages)

        async def chunks():
            for thought in ("Think", f" {len(self.seen)}."):
                kwargs = {"thinking_delta": thought}
                yield ChatResponse(
                    message=ChatMessage(role="assistant", content=""), delta="", additional_kwargs=kwargs
                )
            yield ChatResponse(message=message, delta=message.content or "", raw={"text": message.content})

        return chunks()


async def run(kind, *replies, fn=None, user_msg="Is it?", tools=(add,), **options):
    aligner = {"aligner": make_aligner(fn or Recorder(), **options)} if kind is not FunctionAgent else {}
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    agent = kind(tools=list(tools), llm=_Thinks(replies=list(replies)), **aligner)
    handler = agent.run(user_msg=user_msg, memory=memory)
    events = [event async for event in handler.stream_events()]
    return await handler, events, memory.get_all()


def thoughts(events):
    return [event.thinking_delta for event in events if isinstance(event, AgentStream) and event.thinking_delta]


def whole(message):
    """Everything that a message, an event or a memory holds."""
    return f"{message!r}{message}"


# Blocks -----------------------------------------------------------------------------------------------------------------


async def test_a_kept_message_is_the_upstreams_own():
    message = ChatMessage(
        role="assistant", blocks=[TextBlock(text="Fine."), cite("1"), TextBlock(text=" So."), cite("2")]
    )
    plain, _, remembered = await run(FunctionAgent, message)
    output, _, memory = await run(AlignerFunctionAgent, message)
    assert output.response == plain.response and memory == remembered
    assert output.raw["aligner"]["outcome"] == "kept"


async def test_a_corrected_message_keeps_what_is_no_answer():
    blocks = [
        TextBlock(text="A look."),
        IMAGE,
        TextBlock(text="So it is."),
        cite("1"),
        TextBlock(text=f" {DRAFT}"),
        cite("2"),
    ]
    output, _, memory = await run(AlignerFunctionAgent, ChatMessage(role="assistant", blocks=blocks))
    shown = ["A look.", "<image>", "So it is.", "<1>", f" {FIXED}"]
    assert blocks_of(output.response) == blocks_of(memory[-1]) == shown
    assert output.raw["aligner"]["citations_lost"] == ["2"]


async def test_what_a_tool_returns_directly_keeps_what_is_no_answer():
    def show(topic: str = "") -> ToolOutput:
        blocks = [TextBlock(text="A look."), IMAGE, TextBlock(text=DRAFT)]
        return ToolOutput(tool_name="show", blocks=blocks, raw_input={}, raw_output=DRAFT)

    tool = FunctionTool.from_defaults(show, return_direct=True)
    output, events, _ = await run(AlignerFunctionAgent, calls("show", topic="x"), tools=[tool])
    assert DRAFT not in whole([output, events]) and output.response.content.endswith(FIXED)


# Thoughts ---------------------------------------------------------------------------------------------------------------


async def test_thoughts_come_in_every_step():
    """In the one that answers before the corrected answer, as the upstream thought before it spoke."""
    _, plain, _ = await run(FunctionAgent, calls("add"), says(DRAFT))
    _, events, _ = await run(AlignerFunctionAgent, calls("add"), says(DRAFT))
    assert thoughts(events) == thoughts(plain) == ["Think", " 1.", "Think", " 2."]
    stream = [event for event in events if isinstance(event, AgentStream)]
    last = max(i for i, event in enumerate(stream) if event.thinking_delta)
    assert "".join(event.delta for event in stream[last + 1 :]) == FIXED
    assert not any(event.response for event in stream[: last + 1])


async def test_a_thought_in_the_answer():
    fn = Recorder()
    output, _, memory = await run(AlignerFunctionAgent, says(f"<think>A bad one asks.</think>{DRAFT}"), fn=fn)
    assert str(output) == memory[-1].content == f"<think>A bad one asks.</think>{FIXED}"
    assert fn.prompts == [f"Q=Is it?;A={DRAFT};"]


# What is withheld -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", BLOCKED)
async def test_of_a_blocked_answer_no_word_is_left(policy):
    message = ChatMessage(
        role="assistant",
        blocks=[TextBlock(text="A bad look."), cite("bad"), TextBlock(text=f"<think>So bad.</think>{DRAFT}")],
        additional_kwargs={"reasoning_content": "bad"},
    )
    fn = fail if "on_error" in policy else Recorder()
    output, events, memory = await run(
        AlignerFunctionAgent, calls("add"), message, fn=fn, block_message="withheld", **policy
    )
    assert str(output) == memory[-1].content == "withheld"
    assert " bad" not in whole([output, events, memory])
    assert thoughts(events) == ["Think", " 1."]  # those of the step that called a tool


@pytest.mark.parametrize("policy", BLOCKED)
async def test_of_a_blocked_answer_no_thought_of_react_is_left(policy):
    memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
    llm = ScriptedLLM(reply=f"Thought: A bad one asks.\nAnswer: {DRAFT}")
    aligner = make_aligner(fail if "on_error" in policy else Recorder(), block_message="withheld", **policy)
    handler = AlignerReActAgent(tools=[add], llm=llm, aligner=aligner).run(user_msg="Is it?", memory=memory)
    events = [event async for event in handler.stream_events()]
    output = await handler
    assert str(output) == "withheld"
    assert " bad" not in whole([output, events, memory.get_all()])


# The question -----------------------------------------------------------------------------------------------------------


async def test_an_image_alone_is_no_question():
    fn = Recorder()
    message = ChatMessage(role="user", blocks=[IMAGE])
    output, _, _ = await run(AlignerFunctionAgent, says(DRAFT), fn=fn, user_msg=message)
    assert str(output) == DRAFT and fn.prompts == []
    assert output.raw["aligner"]["reason"] == "no_question"
