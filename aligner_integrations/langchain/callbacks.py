"""Who hears of a run: streams, the user's handlers, tracers.

A stream is made of what callback handlers report, so what an aligner has not seen must be kept from them. LangChain's
way to do so would be to pass other callbacks, but agents, LLMs and tools also inherit them through the context. Here are
the callbacks for what happens inside a run, with the wanted handlers only, and the contexts that go with them. For an
agent's middleware an LLM or a tool is `hidden` while it runs, and what is `shown` in its place is a run with the
aligned words (`agents/replay.py`).

What lives elsewhere: the runs of the aligner's own (`correction_run.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.manager import AsyncRunManager, RunManager
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langchain_core.tracers import BaseTracer, LangChainTracer
from langchain_core.tracers.context import _configure_hooks, tracing_v2_callback_var
from langsmith import get_tracing_context, tracing_context

try:
    from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler
except ImportError:  # private, though LangGraph uses it as well; without it the tag below has to do
    _STREAMS: tuple[type[Any], ...] = ()
else:
    _STREAMS = (_StreamingCallbackHandler, _V2StreamingCallbackHandler)

NO_STREAM_TAG = "nostream"
"""What LangGraph calls `TAG_NOSTREAM`: it shows no token of such an LLM call."""

_Manager = TypeVar("_Manager", CallbackManager, AsyncCallbackManager)
_Value = TypeVar("_Value")
Run = RunManager | AsyncRunManager


def inside(run: Run | None, manager: _Manager, wanted: Callable[[BaseCallbackHandler], bool]) -> _Manager:
    """Fill the callback manager for what happens inside a run.

    LangChain has `get_child` for chains only; this one is for LLM runs too, and takes the wanted handlers only. Where
    LangChain tells a chat model nothing of its run, the run around it stands in.
    """
    above = _callbacks_around() if run is None else run
    if above is None:
        return manager
    manager.parent_run_id = above.parent_run_id if isinstance(above, BaseCallbackManager) else above.run_id
    manager.set_handlers(list(filter(wanted, above.inheritable_handlers)))
    manager.add_tags(above.inheritable_tags)
    manager.add_metadata(above.inheritable_metadata)
    return manager


def unseen(run: Run | None, manager: _Manager, wanted: Callable[[BaseCallbackHandler], bool]) -> _Manager:
    """The same for what no stream may show, so without the handlers that streams are made of."""
    # LangGraph's handlers read the tag; those of `astream_events` and `astream_log` do not, so they must not be there.
    inside(run, manager, lambda handler: not _streams(handler) and wanted(handler))
    manager.add_tags([NO_STREAM_TAG])
    return manager


def run_of_stream(config: RunnableConfig, callbacks: Any) -> CallbackManagerForLLMRun:
    """Return the run of a stream that is about to start with this configuration, which names the run's id.

    `BaseChatModel.stream` does not tell `_stream` its run.

    Args:
        config: The configuration, with a `run_id`.
        callbacks: The model's own callbacks.
    """
    manager = CallbackManager.configure(
        config.get("callbacks"),
        callbacks,
        inheritable_tags=config.get("tags"),
        inheritable_metadata=config.get("metadata"),
    )
    run_id = cast("UUID", config["run_id"])
    return CallbackManagerForLLMRun(run_id=run_id, parent_run_id=manager.parent_run_id, **_inherited(manager))


def anybody(handler: BaseCallbackHandler) -> bool:
    """Want every handler."""
    return True


def nobody(handler: BaseCallbackHandler) -> bool:
    """Want no handler."""
    return False


def _callbacks_around() -> BaseCallbackManager | None:
    around = (var_child_runnable_config.get() or {}).get("callbacks")
    return around if isinstance(around, BaseCallbackManager) else None


def _inherited(manager: BaseCallbackManager) -> dict[str, Any]:
    """What a run takes over from the callbacks around it."""
    return {
        "handlers": manager.handlers,
        "inheritable_handlers": manager.inheritable_handlers,
        "inheritable_tags": manager.inheritable_tags,
        "inheritable_metadata": manager.inheritable_metadata,
    }


def _streams(handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, _STREAMS)


def _tracer(handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, BaseTracer) and not _streams(handler)


def _no_tracer(handler: BaseCallbackHandler) -> bool:
    return not _tracer(handler)


# The upstream inside an aligned chat model --------------------------------------------------------------------------


def tracers_inside(run: Run | None, manager: _Manager) -> RunnableConfig:
    """Return the configuration for the upstream of an aligned chat model.

    Tracers show it below the model's own run. Other handlers see one chat model: they would print or count twice.

    Args:
        run: The model's run.
        manager: A new manager of the right kind.
    """
    # Callbacks are always given: without them the upstream would report to those of whoever called the model.
    return {"callbacks": unseen(run, manager, _tracer)}


@contextmanager
def unheard(deaf: Callable[[BaseCallbackHandler], bool] = _no_tracer) -> Iterator[None]:
    """Keep handlers that come by the context, such as `get_usage_metadata_callback`, from hearing the upstream too."""
    with ExitStack() as stack:
        for var, *_ in _configure_hooks:
            if isinstance(handler := var.get(), BaseCallbackHandler) and deaf(handler):
                stack.enter_context(holding(var, None))
        yield


# An LLM or a tool of an agent, and what is shown in its place -------------------------------------------------------


class RunAround(RunManager):
    """A run that the caller is part of, and how LangSmith was set there."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Taken before anything is hidden: the correction is made while a stand-in speaks, which may be `untraced`.
        self.tracer = tracing_v2_callback_var.get()
        self.tracing = get_tracing_context()
        # None would mean: as it is, which is "off" where this is needed.
        if self.tracing.get("enabled") is None:
            self.tracing["enabled"] = any(isinstance(one, LangChainTracer) for one in self.inheritable_handlers)


def run_around() -> RunAround | None:
    """Return the run that the caller is part of, as LangChain's context tells it; a span of LangSmith's own counts."""
    if (around := _callbacks_around()) is None:
        return None
    manager = CallbackManager.configure(around)
    return RunAround(run_id=manager.parent_run_id, **_inherited(manager)) if manager.parent_run_id else None


@contextmanager
def hidden(*, traced: bool) -> Iterator[None]:
    """Keep what runs in here from all streams and handlers.

    Args:
        traced: Whether tracers see it.
    """
    # Handlers come in two ways, by the callbacks of the context and by hooks (`unheard`, `untraced`); both must be shut.
    manager = unseen(None, CallbackManager([]), _tracer if traced else nobody)
    with unheard() if traced else untraced(), reporting_to(manager):
        yield


@contextmanager
def shown(manager: _Manager, *, traced: bool) -> Iterator[_Manager]:
    """Give the callbacks for the run that stands in for a hidden one.

    Args:
        manager: A new manager of the right kind.
        traced: Whether tracers see the hidden run, so that they must not see this one as well.
    """
    # Everybody hears of the LLM or tool once: tracers of the hidden run or of this one, all others of this one.
    with untraced(_tracer) if traced else nullcontext():
        yield inside(None, manager, _no_tracer) if traced else inside(run_around(), manager, anybody)


@contextmanager
def traced_as(run: Run | None) -> Iterator[None]:
    """Trace as in that run, though the code between was `untraced`."""
    if not isinstance(run, RunAround):
        yield
        return
    with holding(tracing_v2_callback_var, run.tracer), tracing_context(**run.tracing):
        yield


@contextmanager
def untraced(deaf: Callable[[BaseCallbackHandler], bool] = anybody) -> Iterator[None]:
    """Keep LangChain from adding tracers, and the handlers that come by the context."""
    with holding(tracing_v2_callback_var, None), tracing_context(enabled=False), unheard(deaf):
        yield


@contextmanager
def reporting_to(manager: BaseCallbackManager) -> Iterator[None]:
    """Make the callbacks those of what is called in here."""
    config = cast("RunnableConfig", {**(var_child_runnable_config.get() or {}), "callbacks": manager})
    with holding(var_child_runnable_config, config):
        yield


@contextmanager
def holding(variable: ContextVar[_Value], value: _Value) -> Iterator[None]:
    """Give a context variable a value in here."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
