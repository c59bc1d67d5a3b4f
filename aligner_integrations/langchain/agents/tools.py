"""The part of `AlignerMiddleware` for tools' results: a class of its own, because LangChain looks at the class for its hooks.

What lives elsewhere: what the LLM says (`middleware.py`), and what streams see of a tool (`replay.py`).
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool

from aligner_integrations.aligner import Aligner
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.langchain import callbacks
from aligner_integrations.langchain.agents.replay import HiddenTool, atool_started, tool_started
from aligner_integrations.langchain.agents.types import Command, NamedMiddleware, ToolCallRequest
from aligner_integrations.langchain.messages import reason_to_leave
from aligner_integrations.langchain.tasks import Reading, Results, Task, acorrect_all, correct_all, unwrap

_Kind = TypeVar("_Kind", bound=NamedMiddleware)


def with_tools(kind: type[_Kind]) -> type[_Kind]:
    """Return a kind of aligner middleware with hooks around tools."""
    return cast("type[_Kind]", kind if issubclass(kind, _AroundTools) else _with_hooks(cast("Any", kind)))


@functools.cache
def _with_hooks(kind: type[NamedMiddleware]) -> type[NamedMiddleware]:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    # Behind the kind, so that a hook of a subclass goes first.
    return type(kind.__name__, (kind, _AroundTools), names)


class _AroundTools(NamedMiddleware):
    """The hooks around tools. What it works with is `AlignerMiddleware`'s."""

    aligner: Aligner
    reading: Reading
    tool_names: frozenset[str]
    trace_original: bool

    def __reduce__(self) -> tuple[Any, ...]:
        # The class has no name of its own by which it could be found again.
        return copyreg.__newobj_ex__, (type(self).__bases__[0], (), {"tools": self.tool_names}), self.__dict__  # type: ignore[attr-defined]

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
            output = _with_results(output, tasks, correct_all(self.aligner, list(tasks.values()), {}))
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
            output = _with_results(output, tasks, await acorrect_all(self.aligner, list(tasks.values()), {}))
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
                tasks[id(message)] = self.reading.task_of(answer, said, run, None, traced=self.trace_original)
        return tasks


def _with_results(output: Any, tasks: dict[int, Task], corrections: Results) -> Any:
    """The tool's output with the aligned results in place."""
    results = {key: (task, unwrap(result)) for (key, task), result in zip(tasks.items(), corrections, strict=True)}

    def put(item: Any) -> Any:
        if isinstance(item, list):
            return [put(part) for part in item]
        if isinstance(item, Command) and isinstance(item.update, dict) and "messages" in item.update:
            return dataclasses.replace(item, update={**item.update, "messages": put(item.update["messages"])})
        if id(item) not in results:
            return item
        task, correction = results[id(item)]
        new = cast("AIMessage", task.corrected(correction))
        update: dict[str, Any] = {"content": new.content, "response_metadata": new.response_metadata}
        if correction.blocked:
            update |= {"additional_kwargs": {}, "artifact": None}  # which may hold the words again
        return item.model_copy(update=update)

    return put(output)


def names_of(tools: Sequence[str | BaseTool]) -> frozenset[str]:
    """Return the names of tools.

    Raises:
        ConfigurationError: Something is neither a tool nor a name.
    """
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
