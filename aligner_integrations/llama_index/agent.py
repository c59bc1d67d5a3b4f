"""`AlignerFunctionAgent` and `AlignerReActAgent`: LlamaIndex's agents with a corrected final answer.

LlamaIndex has no hook for an agent's answer, and the end of a run is too late: by then the answer was streamed. So a
step's stream is held back until it is known whether the step answers; then the corrected answer takes the draft's place in
the stream, in the output event, and in the scratchpad that becomes the memory.

A tool with `return_direct` answers in the agent's place, and its output is in an event, the scratchpad and the memory before
the agent is asked again. So it is corrected where it comes from; outputs that the LLM goes on to read stay as they are.

What lives elsewhere: correcting what a tool tells the LLM (`AlignerQueryEngine` in a `QueryEngineTool`, `query_engine.py`),
and what happens to one text (`corrector.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

from llama_index.core.agent.react.types import ResponseReasoningStep
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
from llama_index.core.agent.workflow.workflow_events import AgentOutput, AgentStream
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_validator
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import AsyncBaseTool, BaseTool, FunctionTool, ToolOutput, adapt_to_async_tool
from llama_index.core.workflow import Context

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.prefill import Prefill
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector
from aligner_integrations.llama_index.llm import AlignerLLM
from aligner_integrations.llama_index.messages import (
    answer_in,
    response_with_text,
    with_correction,
    with_text,
    without_marks,
)
from aligner_integrations.llama_index.response import METADATA_KEY

_ALIGNED_WORKFLOW = "aligner_workflow"
"""Where a context says that its workflow is an `AlignerAgentWorkflow`."""

_CONTEXT = "_aligner_context"
"""The argument by which a `DirectTool` is given its context."""


class _HeldBack:
    """A context that keeps an agent's deltas to itself; everything else goes through. Lives for one step."""

    def __init__(self, context: Any, prefill: Prefill | None = None) -> None:
        self._context = context
        self._prefill = prefill
        self._held: list[Any] = []

    @property
    def is_running(self) -> bool:
        return True  # what is written meanwhile is held back, and a context that does not run drops what comes after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def write_event_to_stream(self, event: Any) -> None:
        if isinstance(event, AgentStream):
            self._held.append(event)
            if self._prefill is not None:
                self._prefill.feed(event.delta or "")
        else:
            self._context.write_event_to_stream(event)

    def release(self) -> None:
        """Let the deltas out: the step called tools and showed no answer."""
        for event in self._held:
            self._context.write_event_to_stream(event)

    def release_thoughts(self) -> None:
        """Let out what was thought before an answer that is shown, without a word of the answer."""
        for event in self._held:
            if event.thinking_delta:
                fields = {"current_agent_name": event.current_agent_name, "thinking_delta": event.thinking_delta}
                self._context.write_event_to_stream(AgentStream(delta="", response="", **fields))


class AlignedOutput(ToolOutput):
    """A corrected output, and what the agent has to know of the correction.

    That is its record, or the error in its place. Both are private attributes: no part of what LlamaIndex shows or stores.
    """

    _record: dict[str, Any] = PrivateAttr(default_factory=dict)
    # A tool cannot raise: the LLM would be told, and the run would go on. So the agent raises it at the end.
    _error: AlignerError | None = PrivateAttr(default=None)


class DirectTool(FunctionTool):
    """Runs a tool and corrects its output.

    A `FunctionTool`, because to those a workflow hands its context, and the context knows the question.
    """

    def __init__(self, tool: AsyncBaseTool, corrector: Callable[[], Corrector]) -> None:
        super().__init__(async_fn=tool.acall, metadata=tool.metadata)
        self.requires_context, self.ctx_param_name = True, _CONTEXT
        self._tool = tool
        self._corrector = corrector

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Call the tool; the answer is its output, corrected."""
        ctx = kwargs.pop(_CONTEXT)
        tool = self._tool
        if isinstance(tool, FunctionTool) and tool.requires_context and tool.ctx_param_name is not None:
            kwargs[tool.ctx_param_name] = ctx
        output = await tool.acall(*args, **kwargs)
        return output if output.is_error else await self._corrected(ctx, output)

    async def _corrected(self, ctx: Any, output: ToolOutput) -> AlignedOutput:
        question = await ctx.store.get("user_msg_str", default=None) or ""
        fields: dict[str, Any] = {"tool_name": output.tool_name, "raw_input": output.raw_input}
        aligned = AlignedOutput(**fields)
        corrector = self._corrector()
        said = ChatMessage(blocks=output.blocks)
        try:
            correction, aligned._record = await corrector.arecorded(question, answer_in(said), sources_of([output]))
        except AlignerError as error:
            aligned._error = error
            return aligned
        shown = with_correction(said, correction, corrector.citations, aligned._record)
        aligned.blocks, aligned.raw_output = shown.blocks, output.raw_output
        if correction.changed:
            aligned.raw_output = response_with_text(output.raw_output, aligned.content, blocked=correction.blocked)
        return aligned


def sources_of(outputs: list[ToolOutput]) -> list[NodeWithScore]:
    """What tools have found: source nodes where a tool gives them, else its output as one."""
    nodes: list[NodeWithScore] = []
    for output in outputs:
        found = getattr(output.raw_output, "source_nodes", None)
        if isinstance(found, list):
            nodes += found
        else:
            nodes.append(NodeWithScore(node=TextNode(text=output.content or "")))
    return nodes


class _AlignerAgent(BaseWorkflowAgent):
    """What both agents have in common.

    Attributes:
        aligner: Corrects the final answer.
        citations: What becomes of citation markers; see `align_response`.
        include_original: Also put the upstream's text into the record.
    """

    aligner: Aligner = Field(default_factory=Aligner, exclude=True)
    citations: Citations = "keep"
    include_original: bool = False

    @model_validator(mode="after")
    def _correct_once(self) -> _AlignerAgent:
        """Take the aligner off the LLM, as that of `Settings` may have one, and put it on tools that answer."""
        if isinstance(self.llm, AlignerLLM):
            self.llm = self.llm.llm
        if self.tools is not None:
            self.tools = [self._direct(tool) for tool in cast(list[BaseTool], self.tools)]  # validated before
        return self

    @property
    def _corrector(self) -> Corrector:
        return Corrector(self.aligner, self.citations, self.include_original, question_from="message")

    def _direct(self, tool: BaseTool) -> BaseTool:
        if not tool.metadata.return_direct or isinstance(tool, DirectTool):
            return tool
        return DirectTool(adapt_to_async_tool(tool), lambda: self._corrector)

    async def get_tools(self, input_str: str | None = None) -> Sequence[AsyncBaseTool]:
        """Return the tools; those that answer in the agent's place have a corrected output."""
        return cast(list[AsyncBaseTool], [self._direct(tool) for tool in await super().get_tools(input_str)])

    async def _held(self, ctx: Any, prefill: Prefill | None = None) -> Any:
        """Return the context for a step, which keeps the step's deltas.

        Args:
            ctx: The context.
            prefill: Takes them, if they are nothing but the answer.

        Raises:
            ConfigurationError: The workflow around this agent can say a last word that the agent never sees.
        """
        if (
            await ctx.store.get("agents", default=None)  # an AgentWorkflow's
            and await ctx.store.get("early_stopping_method", default=None) == "generate"
            and not await ctx.store.get(_ALIGNED_WORKFLOW, default=False)
        ):
            raise ConfigurationError(
                "With early_stopping_method='generate' an AgentWorkflow asks the LLM itself for a last word, which "
                "would not be corrected. Use AlignerAgentWorkflow instead, which takes what AgentWorkflow takes."
            )
        return _HeldBack(ctx, prefill)

    async def _finish(self, ctx: Any, held: _HeldBack, output: AgentOutput) -> AgentOutput:
        """Correct the step's answer, if it is one."""
        if output.retry_messages:  # an attempt that could not be read; the LLM sees it again, nobody else should
            return output.model_copy(update={"response": with_text(output.response, "", blocked=True), "raw": None})
        if output.tool_calls:
            held.release()
            return output
        return await self._align(ctx, held, output)

    async def _align(self, ctx: Any, held: _HeldBack, output: AgentOutput) -> AgentOutput:
        answer, last = await self._withdraw(ctx, output)
        correction, record = await self._correct(ctx, held, answer)
        response = await self._replace(ctx, last, output.response, correction, record)
        # The raw response quotes the upstream, so the record takes its place.
        return output.model_copy(update={"response": response, "raw": {METADATA_KEY: record}})

    async def _correct(self, ctx: Any, held: _HeldBack, answer: str) -> tuple[Correction, dict[str, Any]]:
        """Correct an answer and stream it, after what was thought before it."""
        corrector = self._corrector
        question = await ctx.store.get("user_msg_str", default=None) or ""
        calls = await ctx.store.get("current_tool_calls", default=[])
        shown = ""
        async with aclosing(corrector.astream(question, answer, sources_of([c.tool_output for c in calls]))) as pieces:
            async for piece in pieces:
                if not shown and not corrector.blocks(piece):
                    held.release_thoughts()
                shown += piece
                if self.streaming:
                    ctx.write_event_to_stream(AgentStream(delta=piece, response=shown, current_agent_name=self.name))
        correction = cast(Correction, pieces.correction)  # read to its end
        return correction, await corrector.arecord(correction)

    async def _withdraw(self, ctx: Any, output: AgentOutput) -> tuple[str, Any]:
        """Return the answer and its entry in the scratchpad, which is taken out: should the correction fail, it is gone."""
        raise NotImplementedError

    async def _replace(
        self, ctx: Any, last: Any, response: ChatMessage, correction: Correction, record: dict[str, Any]
    ) -> ChatMessage:
        """Put the entry back with the corrected answer; return the step's message with it."""
        raise NotImplementedError

    async def finalize(self, ctx: Context, output: AgentOutput, memory: BaseMemory) -> AgentOutput:
        """Move the turn to the memory."""
        finished = await self._finish_direct(ctx, output)
        return await super().finalize(ctx, finished, memory)  # type: ignore[safe-super]  # FunctionAgent's or ReActAgent's

    async def _finish_direct(self, ctx: Any, output: AgentOutput) -> AgentOutput:
        """Finish the output of a tool that is the answer itself: no step has seen it."""
        if not output.tool_calls:  # an answer of the LLM: its calls are added after it is finalized
            return output
        for call in await ctx.store.get("current_tool_calls", default=[]):
            done = call.tool_output
            if not call.return_direct or call.tool_name == "handoff" or done.is_error:
                continue
            if done.content != output.response.content:
                continue
            if not isinstance(done, AlignedOutput):  # a tool that this agent did not hand out
                return await self._align(ctx, _HeldBack(ctx), output)
            if done._error is not None:
                raise done._error
            return output.model_copy(update={"raw": {METADATA_KEY: done._record}})
        return output

    async def _get_llm_response(
        self, ctx: Context, llm_input: list[ChatMessage], llm: LLM | None = None
    ) -> ChatResponse:
        """The last word at the limit of iterations (`early_stopping_method="generate"`), corrected."""
        held: Any = _HeldBack(ctx)
        draft = await super()._get_llm_response(held, llm_input, llm)
        correction, record = await self._correct(ctx, held, answer_in(draft.message))
        message = with_correction(draft.message, correction, self.citations, record)
        return draft.model_copy(update={"message": message, "raw": {METADATA_KEY: record}})


class AlignerFunctionAgent(_AlignerAgent, FunctionAgent):
    """A `FunctionAgent` whose final answer is corrected: in events, output and memory, alone or in an `AgentWorkflow`.

    The question is the user's message; the sources are those of the tools that were called. The record is
    `output.raw["aligner"]`. Steps that call tools stay as they are; a tool with `return_direct` answers, so its output is
    corrected. What was thought is never corrected: it stays in the message, and its `thinking_delta`s come in every step; in the
    one that answers they come before the corrected answer, and not at all if that is blocked. A message without words, such
    as an image, is no question: then the answer stays as it is (`no_question`).

    Example:
        >>> agent = AlignerFunctionAgent(tools=[search], llm=llm, aligner=aligner)
        >>> await agent.run(user_msg="Which plants are toxic to cats?")

    Args:
        aligner: Corrects the final answer. Default: `Aligner()`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record.
        **options: Those of `FunctionAgent`.
    """

    async def take_step(
        self, ctx: Any, llm_input: list[ChatMessage], tools: Sequence[AsyncBaseTool], memory: BaseMemory
    ) -> AgentOutput:
        """Take a step; if it answers, the answer is corrected."""
        with self.aligner.prefill(await ctx.store.get("user_msg_str", default=None) or "") as prefill:
            held = await self._held(ctx, prefill)
            return await self._finish(ctx, held, await super().take_step(held, llm_input, tools, memory))

    async def _withdraw(self, ctx: Any, output: AgentOutput) -> tuple[str, ChatMessage | None]:
        *scratchpad, last = await ctx.store.get(self.scratchpad_key, default=None) or [None]
        await ctx.store.set(self.scratchpad_key, scratchpad)
        return answer_in(output.response), last

    async def _replace(
        self,
        ctx: Any,
        last: ChatMessage | None,
        response: ChatMessage,
        correction: Correction,
        record: dict[str, Any],
    ) -> ChatMessage:
        if last is not None:
            scratchpad = await ctx.store.get(self.scratchpad_key, default=[])
            shown = with_correction(last, correction, self.citations, {})
            await ctx.store.set(self.scratchpad_key, [*scratchpad, shown])
        return with_correction(response, correction, self.citations, record)


class AlignerReActAgent(_AlignerAgent, ReActAgent):
    """A `ReActAgent` whose final answer is corrected; its thoughts and actions stay as they are.

    Otherwise as `AlignerFunctionAgent`. An attempt that does not follow the format is shown to the LLM alone.

    Args:
        aligner: Corrects the final answer. Default: `Aligner()`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record.
        **options: Those of `ReActAgent`.
    """

    async def take_step(
        self, ctx: Any, llm_input: list[ChatMessage], tools: Sequence[AsyncBaseTool], memory: BaseMemory
    ) -> AgentOutput:
        """Take a step; if it answers, the answer is corrected."""
        held = await self._held(ctx)  # nothing is read ahead: what is streamed are thoughts, too
        return await self._finish(ctx, held, await super().take_step(held, llm_input, tools, memory))

    async def _withdraw(self, ctx: Any, output: AgentOutput) -> tuple[str, ResponseReasoningStep | None]:
        *steps, last = await ctx.store.get(self.reasoning_key, default=None) or [None]
        if not isinstance(last, ResponseReasoningStep):
            return answer_in(output.response), None
        await ctx.store.set(self.reasoning_key, steps)
        return last.response, last

    async def _replace(
        self,
        ctx: Any,
        last: ResponseReasoningStep | None,
        response: ChatMessage,
        correction: Correction,
        record: dict[str, Any],
    ) -> ChatMessage:
        text = correction.text
        if last is not None:
            # After a tool with return_direct the thought is the answer, too.
            thought = text if last.thought == last.response else "" if correction.blocked else last.thought
            last = last.model_copy(update={"response": text, "thought": thought})
            steps = await ctx.store.get(self.reasoning_key, default=[])
            await ctx.store.set(self.reasoning_key, [*steps, last])
        # The step's message has its thought, too.
        said = answer_in(response)
        head, mark, _ = said.partition("Answer:")
        if mark and not correction.blocked:
            text = f"{head}{mark} {text}" if correction.changed else without_marks(said)
            correction = dataclasses.replace(correction, answer=without_marks(said), text=text)
        return with_correction(response, correction, self.citations, record)


class AlignerAgentWorkflow(AgentWorkflow):
    """An `AgentWorkflow` of aligned agents whose last word at the limit of steps is corrected, too.

    Needed with `early_stopping_method="generate"` only; without it, aligned agents are at home in an `AgentWorkflow`.
    """

    async def _init_context(self, ctx: Context, ev: Any) -> None:
        await super()._init_context(ctx, ev)
        await ctx.store.set(_ALIGNED_WORKFLOW, True)

    async def _get_llm_response(
        self, ctx: Context, llm_input: list[ChatMessage], agent: BaseWorkflowAgent
    ) -> ChatResponse:
        return await agent._get_llm_response(ctx, llm_input)
