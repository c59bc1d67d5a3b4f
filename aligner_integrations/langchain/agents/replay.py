"""What streams and handlers see of an agent's LLM or tool while the real one runs hidden: a run with the aligned words.

`StandIn` is a chat model, because only LangChain's own code for chat models feeds every kind of stream: it says one
message, as the aligner writes it. A tool's run is reported by hand, and `HiddenTool` keeps the tool itself from
reporting.

What lives elsewhere: who hears of which run (`callbacks.py`), and which messages are aligned (`middleware.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Literal, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    AsyncCallbackManagerForToolRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    CallbackManagerForToolRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.langchain import callbacks
from aligner_integrations.langchain.chunks import awrite_chat, write_chat
from aligner_integrations.langchain.tasks import Task, acorrect, correct

# A chat model --------------------------------------------------------------------------------------------------------


class StandIn(BaseChatModel):
    """Says what came of one task, and lives no longer than that.

    Its fields are in no repr, which LangChain hands to callbacks: they hold the uncorrected text.

    Args:
        hidden: The model it stands in for.
        aligner: The aligner.
        task: The message to correct, or to say as it is.
        corrected: Returns the message to say, given the correction.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    hidden: Any = Field(repr=False, exclude=True)
    aligner: Aligner = Field(repr=False, exclude=True)
    task: Task = Field(repr=False, exclude=True)
    corrected: Callable[[Task, Correction], AIMessage] = Field(repr=False, exclude=True)
    # A cache's key would be what was asked, so another agent's words could be said instead of these.
    cache: Literal[False] = Field(default=False, exclude=True)

    _said: AIMessage | None = PrivateAttr(default=None)

    def speak(self, messages: Sequence[BaseMessage], *, traced: bool) -> AIMessage:
        """Say the message, and return it with the id under which streams saw it.

        Args:
            messages: What the hidden model was asked.
            traced: Whether tracers saw the hidden model.

        Raises:
            AlignerError: As the aligner's policies say.
        """
        with callbacks.shown(CallbackManager([]), traced=traced) as manager:
            return self._under(self.invoke(list(messages), self._config(manager)))

    async def aspeak(self, messages: Sequence[BaseMessage], *, traced: bool) -> AIMessage:
        """`speak` without blocking the event loop; cancelling it stops the aligner."""
        with callbacks.shown(AsyncCallbackManager([]), traced=traced) as manager:
            return self._under(await self.ainvoke(list(messages), self._config(manager)))

    def _config(self, manager: CallbackManager | AsyncCallbackManager) -> RunnableConfig:
        return {"callbacks": manager, "run_name": self.hidden.get_name()}

    def _under(self, streamed: AIMessage) -> AIMessage:
        # What was streamed and put together again may have another shape of content; only its id is of use.
        return cast("AIMessage", self._said).model_copy(update={"id": streamed.id})

    def _notes(self, task: Task, correction: Correction) -> AIMessage:
        self._said = self.corrected(task, correction)
        return self._said

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self._notes(self.task, correct(self.aligner, self.task, {})))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self._notes(self.task, await acorrect(self.aligner, self.task, {})))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        return write_chat(self.aligner, self.task, self._notes, run_manager)

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        return awrite_chat(self.aligner, self.task, self._notes, run_manager)

    # Tracers and counters of cost see the hidden model's name and provider.
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        if isinstance(self.hidden, BaseChatModel):
            return self.hidden._get_ls_params(stop=stop, **kwargs)
        return super()._get_ls_params(stop=stop, **kwargs)

    @property
    def _llm_type(self) -> str:
        return "stand-in"


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


# A tool --------------------------------------------------------------------------------------------------------------


class HiddenTool(BaseTool):
    """The same tool, reporting to the callbacks of the context whatever callbacks it is given."""

    tool: BaseTool

    @classmethod
    def of(cls, tool: BaseTool) -> HiddenTool:
        """Return a tool that looks like the given one and runs it."""
        own = ("name", "description", "args_schema", "return_direct", "response_format", "tags", "metadata", "extras")
        return cls(tool=tool, **{name: getattr(tool, name) for name in own if hasattr(tool, name)})

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run the tool."""
        return self.tool.invoke(input, _without_callbacks(config), **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run the tool without blocking the event loop."""
        return await self.tool.ainvoke(input, _without_callbacks(config), **kwargs)

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        """Return the tool's own."""
        return self.tool.get_input_schema(config)

    @property
    def func(self) -> Any:
        """The tool's function, at which LangGraph looks for what it must inject."""
        return getattr(self.tool, "func", None)

    @property
    def coroutine(self) -> Any:
        """The same, asynchronous."""
        return getattr(self.tool, "coroutine", None)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.tool._run(*args, **kwargs)


def _without_callbacks(config: RunnableConfig | None) -> RunnableConfig:
    return cast("RunnableConfig", {key: value for key, value in (config or {}).items() if key != "callbacks"})


def tool_started(tool: BaseTool | None, call: ToolCall, *, traced: bool) -> CallbackManagerForToolRun:
    """Report that a tool starts, to all that will not hear of it from the tool.

    Args:
        tool: The tool; None if the agent has none of that name.
        call: The call.
        traced: Whether tracers hear of it from the tool.
    """
    with callbacks.shown(CallbackManager([]), traced=traced) as manager:
        # In a context of its own: LangGraph's handler puts a writer there by which the tool could stream its words.
        return copy_context().run(partial(manager.on_tool_start, *_described(tool, call), **_called(call)))


async def atool_started(tool: BaseTool | None, call: ToolCall, *, traced: bool) -> AsyncCallbackManagerForToolRun:
    """`tool_started` without blocking the event loop."""
    with callbacks.shown(AsyncCallbackManager([]), traced=traced) as manager:
        return await asyncio.create_task(manager.on_tool_start(*_described(tool, call), **_called(call)))


def _described(tool: BaseTool | None, call: ToolCall) -> tuple[dict[str, Any], str]:
    return {"name": call["name"], "description": tool.description if tool else ""}, str(call["args"])


def _called(call: ToolCall) -> dict[str, Any]:
    return {"inputs": call["args"], "tool_call_id": call["id"]}
