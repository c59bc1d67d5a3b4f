"""`AlignerMiddleware`: an agent of `create_agent` whose words have been through an aligner before anybody sees them.

    agent = create_agent(model, tools, middleware=[AlignerMiddleware(aligner)])

While the LLM runs, its tokens reach no stream, no event and no handler but tracers. What is shown in its place is one
chat model that says the aligned message, as the aligner writes it, under the id of the message in the state. So
`stream_mode="messages"`, `updates`, `values`, `debug`, `astream_events`, `stream_events` and checkpoints hold nothing
that the aligner has not seen. The price: tokens come when the LLM is done, those of tool calls included.

**Place among other middleware.** Early in the list, which makes it an outer layer:

- *ModelRetryMiddleware, ModelFallbackMiddleware, ToolRetryMiddleware* after it: their attempts are hidden as well, and a
  failure of the aligner calls neither the LLM nor the tool again. Before it, one failing aligner means n calls of the LLM,
  and its error's text as the answer.
- *PIIMiddleware and the limits* (`after_model`) anywhere: they see the aligned message.
- *HumanInTheLoopMiddleware* before it. The reviewer sees aligned words in any order, and the aligner is not asked again
  when the run goes on; but that middleware also changes calls that were edited and adds a note to their results, which is
  not for the aligner.
- *SummarizationMiddleware* anywhere: what it summarises is aligned. Its own LLM's tokens are its own to hide.
- *Middleware that brings in tools at run time* (`request.override(tool=...)`) before it, if their results are aligned.
- *ThoughtAlignerMiddleware* after it.

Like any middleware with a hook for tools, this one gives an agent without tools a tools node.

What lives elsewhere: thoughts and what follows from them (`thoughts.py`, `thought_middleware.py`), what streams see
(`replay.py`, and `callbacks.py` one folder up), graphs without `create_agent` (`node.py`), and what is corrected and what
is not (`aligner.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError
from aligner_integrations.langchain import callbacks, correction_run
from aligner_integrations.langchain.agents.replay import HiddenTool, StandIn, atool_started, tool_started
from aligner_integrations.langchain.agents.types import (
    Command,
    ModelRequest,
    ModelResponse,
    NamedMiddleware,
    ToolCallRequest,
    conversation,
    goes_on,
)
from aligner_integrations.langchain.messages import reason_to_leave, text_alone
from aligner_integrations.langchain.tasks import Picker, Task, given_aligner, task_of, unwrap

Align = Literal["final", "all", "thoughts"]
"""Which texts of the LLM: what it ends with, what it says beside tool calls ("thoughts"), or both."""


class AlignerMiddleware(NamedMiddleware):
    """Aligns what an agent says before it is in the state, in a checkpoint or in any stream.

    A message keeps its id, name, usage, metadata, tool calls, and blocks that are not text, and carries what happened as
    `response_metadata["aligner"]`. Refusals, structured output of the provider and messages without text are left
    alone. Where the aligner's `on_error`, `on_overflow` or `on_reject` says "block", the message becomes the block
    message without tool calls, so that none is left without a result and the conversation can go on.

    Not touched: what a tool itself puts into the `custom` stream, an artifact, or a state key other than `messages`; the
    words of an agent that works inside a tool of this one, which needs its own middleware; and callbacks that are fixed
    to the model object itself, which hear that model.

    Safe to share between agents, threads and tasks.

    Args:
        aligner: The aligner. Default: `Aligner(**options)`.
        align: Which texts of the LLM are aligned: `"final"` answers, `"thoughts"` (what stands beside tool calls; the calls
            stay as they are, see `ThoughtAlignerMiddleware` for more), `"all"`, or None for none.
        tools: Tools, or their names, whose results are aligned as well, before even the tool's own events tell them.
        question: Picks the question from the messages the LLM was given: the whole conversation, with the system message
            and the tools' results. Default: the last human message.
        include_original: Also put the uncorrected text into the record.
        trace_original: Whether traces and callbacks that are tracers (LangSmith) may see the uncorrected text. With False they
            see what streams see, and no run of the correction.
        name: Name of the middleware; needed where two with the same options are in one agent.
        **options: Options of `Aligner`, such as `model`.

    Raises:
        ConfigurationError: Options that do not fit together.
        QuestionNotFoundError: When the agent runs: there is no text in the messages to take as the question.
        AlignerError: When the agent runs, as the aligner's `on_error`, `on_overflow` and `on_reject` say.
    """

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        align: Align | None = "final",
        tools: Sequence[str | BaseTool] = (),
        question: Picker | None = None,
        include_original: bool = False,
        trace_original: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if align is not None and align not in get_args(Align):
            raise ConfigurationError(f"align is {align!r}; it takes one of {get_args(Align)}, or None.")
        self.aligner = given_aligner(aligner, options)
        self.align = align
        self.tool_names = _names(tools)
        self.question = question
        self.include_original = include_original
        self.trace_original = trace_original
        self._name = name or f"{type(self).__name__}[{', '.join([str(align), *sorted(self.tool_names)])}]"

    # What the LLM says ----------------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Let the LLM answer where nobody hears it, and say what the aligner makes of it."""
        run = callbacks.run_around()
        with callbacks.hidden(traced=self.trace_original):
            response = handler(request)
        result = list(response.result)
        for place, stand_in in self._stand_ins(request, response, run):
            result[place] = stand_in.speak(conversation(request), traced=self.trace_original)
        return dataclasses.replace(response, result=result)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """`wrap_model_call` without blocking the event loop."""
        run = callbacks.run_around()
        with callbacks.hidden(traced=self.trace_original):
            response = await handler(request)
        result = list(response.result)
        for place, stand_in in self._stand_ins(request, response, run):
            result[place] = await stand_in.aspeak(conversation(request), traced=self.trace_original)
        return dataclasses.replace(response, result=result)

    def _stand_ins(
        self, request: ModelRequest[Any], response: ModelResponse[Any], run: callbacks.Run | None
    ) -> Iterator[tuple[int, StandIn]]:
        """For each message of the LLM its place in the response, and what says it."""

        def corrected(task: Task, correction: Correction) -> AIMessage:
            message = cast("AIMessage", task.corrected(correction, include_original=self.include_original))
            return text_alone(message) if correction.blocked and goes_on(response, message) else message

        for place, message in enumerate(response.result):
            if isinstance(message, AIMessage):
                task = self._task(request, response, message, run)
                yield place, StandIn(hidden=request.model, aligner=self.aligner, task=task, corrected=corrected)

    def _task(
        self, request: ModelRequest[Any], response: ModelResponse[Any], message: AIMessage, run: callbacks.Run | None
    ) -> Task:
        reason = self._reason(response, message)
        return task_of(message, conversation(request), self.question, run, reason, traced=self.trace_original)

    def _reason(self, response: ModelResponse[Any], message: AIMessage) -> str | None:
        """Why a message is left alone; None if it is not."""
        if response.structured_response is not None and not message.tool_calls:
            return "structured"  # the provider's: the text is the data
        runs_tools = goes_on(response, message)
        if self.align is None or (runs_tools and self.align == "final"):
            return "tool_calls" if runs_tools else "not_asked_for"
        if not runs_tools and self.align == "thoughts":
            return "not_asked_for"
        return reason_to_leave(message, beside_calls=True)

    # What tools say -------------------------------------------------------------------------------------------------

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """Let a tool work where nobody hears it, and report what the aligner makes of its result."""
        if request.tool_call["name"] not in self.tool_names:
            return handler(request)
        run = callbacks.run_around()
        shown = tool_started(request.tool, request.tool_call, traced=self.trace_original)
        try:
            with callbacks.hidden(traced=self.trace_original):
                output = handler(_hidden(request))
            tasks = self._tool_tasks(request, output, run)
            corrections = correction_run.correct_many(self.aligner, [task.work for task in tasks.values()], {})
            output = self._with_results(output, tasks, corrections)
        except BaseException as error:
            shown.on_tool_error(error, tool_call_id=request.tool_call["id"])
            raise
        shown.on_tool_end(output, name=request.tool_call["name"])
        return output

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """`wrap_tool_call` without blocking the event loop."""
        if request.tool_call["name"] not in self.tool_names:
            return await handler(request)
        run = callbacks.run_around()
        shown = await atool_started(request.tool, request.tool_call, traced=self.trace_original)
        try:
            with callbacks.hidden(traced=self.trace_original):
                output = await handler(_hidden(request))
            tasks = self._tool_tasks(request, output, run)
            corrections = await correction_run.acorrect_many(self.aligner, [task.work for task in tasks.values()], {})
            output = self._with_results(output, tasks, corrections)
        except BaseException as error:
            await shown.on_tool_error(error, tool_call_id=request.tool_call["id"])
            raise
        await shown.on_tool_end(output, name=request.tool_call["name"])
        return output

    def _tool_tasks(self, request: ToolCallRequest, output: Any, run: callbacks.Run | None) -> dict[int, Task]:
        """What is to be aligned of a tool's output, by the message object that holds it."""
        tasks = {}
        for message in _tool_messages(output):
            answer = AIMessage(message.content, response_metadata=message.response_metadata)
            if message.status != "error" and not reason_to_leave(answer):
                said = request.state["messages"]
                tasks[id(message)] = task_of(answer, said, self.question, run, None, traced=self.trace_original)
        return tasks

    def _with_results(self, output: Any, tasks: dict[int, Task], corrections: list[Correction | AlignerError]) -> Any:
        """The tool's output with the aligned results in place."""
        aligned = {}
        for (key, task), result in zip(tasks.items(), corrections, strict=True):
            aligned[key] = cast("AIMessage", task.corrected(unwrap(result), include_original=self.include_original))

        def put(item: Any) -> Any:
            if isinstance(item, list):
                return [put(part) for part in item]
            if isinstance(item, Command) and isinstance(item.update, dict) and "messages" in item.update:
                return dataclasses.replace(item, update={**item.update, "messages": put(item.update["messages"])})
            if (new := aligned.get(id(item))) is None:
                return item
            return item.model_copy(update={"content": new.content, "response_metadata": new.response_metadata})

        return put(output)


def _names(tools: Sequence[str | BaseTool]) -> frozenset[str]:
    if isinstance(tools, str):
        raise ConfigurationError(f"tools is the text {tools!r}; it takes a list, such as [{tools!r}].")
    names = [tool.name if isinstance(tool, BaseTool) else tool for tool in tools]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ConfigurationError(f"tools takes tools and names of tools, got {type(wrong[0]).__name__}.")
    return frozenset(names)


def _hidden(request: ToolCallRequest) -> ToolCallRequest:
    return request if request.tool is None else request.override(tool=HiddenTool.of(request.tool))


def _tool_messages(output: Any) -> Iterator[ToolMessage]:
    if isinstance(output, ToolMessage):
        yield output
    elif isinstance(output, list):
        for item in output:
            yield from _tool_messages(item)
    elif isinstance(output, Command) and isinstance(output.update, dict):
        yield from _tool_messages(output.update.get("messages"))
