"""The aligner at work inside a run of LangChain: what callbacks and traces see of it, and what streams must not see.

Each correction is a run named "correction" below the run that asked for it, with the question and the answer as its
input, and the text, the outcome, the seconds and the changed share as its output. LLM calls of the aligner's own (a
backend that is a chat model, an `accept` that asks a judge) are below that run, carry `INTERNAL_TAG`, and reach no
stream: neither `astream_events` nor LangGraph's `messages` mode takes their tokens for the user's.

What lives elsewhere: the public steps (`runnable.py`, `chat_model.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.manager import AsyncRunManager, RunManager
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langchain_core.tracers import BaseTracer
from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler
from langchain_core.tracers.context import _configure_hooks

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import INTERNAL_TAG
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError
from aligner_integrations.langchain.upstream import UpstreamRecorder

NO_STREAM_TAG = "nostream"
"""What LangGraph calls `TAG_NOSTREAM`: it shows no token of such an LLM call."""

_NAME = "correction"


@dataclass(frozen=True, slots=True)
class Work:
    """One answer to correct.

    Attributes:
        question: What the upstream was asked.
        answer: The text of its answer.
        question_from: How the question was found.
        run: The run that asks for the correction; None if LangChain gave none.
    """

    question: str
    answer: str
    question_from: str | None
    run: RunManager | AsyncRunManager | None


_Manager = TypeVar("_Manager", CallbackManager, AsyncCallbackManager)
Run = RunManager | AsyncRunManager


def _handlers_inside(run: Run | None, manager: _Manager, wanted: Callable[[BaseCallbackHandler], bool]) -> _Manager:
    """Fill the callback manager for what happens inside a run and no stream may show.

    LangChain has `get_child` for chains only; this one is for LLM runs too, and leaves out the handlers that streams
    are made of. Where LangChain tells a chat model nothing of its run, the run around it stands in.
    """
    around = (var_child_runnable_config.get() or {}).get("callbacks")
    handlers: list[BaseCallbackHandler] = []
    tags: list[str] = []
    if run is not None:
        manager.parent_run_id, handlers, tags = run.run_id, run.inheritable_handlers, run.inheritable_tags
        manager.add_metadata(run.inheritable_metadata)
    elif isinstance(around, BaseCallbackManager):
        manager.parent_run_id, handlers, tags = (
            around.parent_run_id,
            around.inheritable_handlers,
            around.inheritable_tags,
        )
        manager.add_metadata(around.inheritable_metadata)
    streams = (_StreamingCallbackHandler, _V2StreamingCallbackHandler)
    manager.set_handlers([handler for handler in handlers if not isinstance(handler, streams) and wanted(handler)])
    manager.add_tags([*tags, NO_STREAM_TAG])
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
    return CallbackManagerForLLMRun(
        run_id=cast("UUID", config["run_id"]),
        handlers=manager.handlers,
        inheritable_handlers=manager.inheritable_handlers,
        parent_run_id=manager.parent_run_id,
        inheritable_tags=manager.inheritable_tags,
        inheritable_metadata=manager.inheritable_metadata,
    )


def _anybody(handler: BaseCallbackHandler) -> bool:
    return True


def _tracer(handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, BaseTracer)


# The upstream inside an aligned chat model --------------------------------------------------------------------------


def tracers_inside(run: Run | None, manager: _Manager) -> RunnableConfig:
    """Return the configuration for the upstream of an aligned chat model.

    Tracers show it below the model's own run. Other handlers see one chat model: they would print or count twice.

    Args:
        run: The model's run.
        manager: A new manager of the right kind.
    """
    # Callbacks are always given: without them the upstream would report to those of whoever called the model.
    return {"callbacks": _handlers_inside(run, manager, _tracer)}


@contextmanager
def unheard() -> Iterator[None]:
    """Keep handlers that come by the context, such as `get_usage_metadata_callback`, from hearing the upstream too."""
    heard = [
        (var, handler)
        for var, *_ in _configure_hooks
        if isinstance(handler := var.get(), BaseCallbackHandler) and not _tracer(handler)
    ]
    tokens = [(var, var.set(None)) for var, _ in heard]
    try:
        yield
    finally:
        for var, token in tokens:
            var.reset(token)


# A batch ------------------------------------------------------------------------------------------------------------


def correct_many(aligner: Aligner, works: Sequence[Work], fields: dict[str, Any]) -> list[Correction | AlignerError]:
    """Correct a batch, each as a run of its own; an error stands in its place in the list."""
    if not works:
        return []
    runs = [_started(work) for work in works]
    try:
        with _aside(runs[0] or works[0].run):
            pairs = [(work.question, work.answer) for work in works]
            results = cast(
                "list[Correction | AlignerError]", aligner.correct_many(pairs, return_exceptions=True, **fields)
            )
    except BaseException as error:
        for started in filter(None, runs):
            started.on_chain_error(error)
        raise
    for run, result in zip(runs, results, strict=True):
        if run is not None:
            _end(run, result)
    return results


async def acorrect_many(
    aligner: Aligner, works: Sequence[Work], fields: dict[str, Any]
) -> list[Correction | AlignerError]:
    """`correct_many` without blocking the event loop."""
    if not works:
        return []
    runs = [await _astarted(work) for work in works]
    try:
        with _aside(runs[0] or works[0].run):
            pairs = [(work.question, work.answer) for work in works]
            results = cast(
                "list[Correction | AlignerError]", await aligner.acorrect_many(pairs, return_exceptions=True, **fields)
            )
    except BaseException as error:
        for started in filter(None, runs):
            await started.on_chain_error(error)
        raise
    for run, result in zip(runs, results, strict=True):
        if run is not None:
            await _aend(run, result)
    return results


# As it is written ---------------------------------------------------------------------------------------------------


def stream(aligner: Aligner, work: Work, fields: dict[str, Any]) -> Generator[str | Correction, None, None]:
    """Yield the corrected text as the aligner writes it, and the correction as the last item."""
    run = _started(work)
    try:
        with closing(aligner.stream(work.question, work.answer, **fields)) as pieces:
            while True:
                # Step by step: between two pieces the context is that of whoever reads the stream.
                with _aside(run or work.run):
                    piece = next(pieces, None)
                if piece is None:
                    break
                yield piece
    except BaseException as error:
        if run is not None:
            run.on_chain_error(error)
        raise
    correction = cast("Correction", pieces.correction)
    if run is not None:
        _end(run, correction)
    yield correction


async def astream(aligner: Aligner, work: Work, fields: dict[str, Any]) -> AsyncGenerator[str | Correction, None]:
    """`stream` without blocking the event loop; closing it stops the aligner."""
    run = await _astarted(work)
    try:
        async with aclosing(aligner.astream(work.question, work.answer, **fields)) as pieces:
            while True:
                with _aside(run or work.run):
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                yield piece
    except BaseException as error:
        if run is not None:
            await run.on_chain_error(error)
        raise
    correction = cast("Correction", pieces.correction)
    if run is not None:
        await _aend(run, correction)
    yield correction


# Runs ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _aside(run: Run | None) -> Iterator[None]:
    """Make what is called in here part of the run, and the aligner's own business."""
    manager = CallbackManager([])
    _handlers_inside(run, manager, _anybody).add_tags([INTERNAL_TAG])
    config = cast("RunnableConfig", {**(var_child_runnable_config.get() or {}), "callbacks": manager})
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def _listened_to(manager: BaseCallbackManager) -> bool:
    """Whether anybody would see a run: not if the recorder is alone, and then it need not be made."""
    return any(not isinstance(handler, UpstreamRecorder) for handler in manager.handlers)


def _started(work: Work) -> CallbackManagerForChainRun | None:
    manager = _handlers_inside(work.run, CallbackManager([]), _anybody)
    return manager.on_chain_start(None, _inputs(work), name=_NAME) if _listened_to(manager) else None


async def _astarted(work: Work) -> AsyncCallbackManagerForChainRun | None:
    manager = _handlers_inside(work.run, AsyncCallbackManager([]), _anybody)
    return await manager.on_chain_start(None, _inputs(work), name=_NAME) if _listened_to(manager) else None


def _end(run: CallbackManagerForChainRun, result: Correction | AlignerError) -> None:
    if isinstance(result, Correction):
        run.on_chain_end(_outputs(result))
    else:
        run.on_chain_error(result)


async def _aend(run: AsyncCallbackManagerForChainRun, result: Correction | AlignerError) -> None:
    if isinstance(result, Correction):
        await run.on_chain_end(_outputs(result))
    else:
        await run.on_chain_error(result)


def _inputs(work: Work) -> dict[str, Any]:
    return {"question": work.question, "answer": work.answer, "question_from": work.question_from}


def _outputs(correction: Correction) -> dict[str, Any]:
    return {"text": correction.text, **correction.record()}
