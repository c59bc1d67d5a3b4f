"""The aligner at work inside a run of LangChain: what callbacks and traces see of it, and what streams must not see.

Each correction is a run named "correction" below the run that asked for it, with the question and the answer as its
input, and the text, the outcome, the seconds and the changed share as its output. LLM calls of the aligner's own (a
backend that is a chat model, an `accept` that asks a judge) are below that run, carry `INTERNAL_TAG`, and reach no
stream: neither `astream_events` nor LangGraph's `messages` mode takes their tokens for the user's.

What lives elsewhere: who hears of a run and who must not (`callbacks.py`), and the public steps (`runnable.py`,
`chat_model.py`, `agents/middleware.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForChainRun,
)

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import INTERNAL_TAG
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError
from aligner_integrations.langchain.callbacks import Run, anybody, nobody, reporting_to, traced_as, unseen, untraced
from aligner_integrations.langchain.question.recorder import UpstreamRecorder
from aligner_integrations.recording.requests import for_request, has_request

_NAME = "correction"


@dataclass(frozen=True, slots=True)
class Work:
    """One answer to correct.

    Attributes:
        question: What the upstream was asked.
        answer: The text of its answer.
        question_from: How the question was found.
        run: The run that asks for the correction; None if LangChain gave none.
        traced: Whether the correction and the aligner's own LLM calls are runs that callbacks and traces see.
    """

    question: str
    answer: str
    question_from: str | None
    run: Run | None
    traced: bool = True


# A batch ------------------------------------------------------------------------------------------------------------


def correct_many(aligner: Aligner, works: Sequence[Work], fields: dict[str, Any]) -> list[Correction | AlignerError]:
    """Correct a batch, each as a run of its own; an error stands in its place in the list."""
    if not works:
        return []
    runs = [_started(work) for work in works]
    try:
        with _aside(runs[0], *works):
            pairs = [(work.question, work.answer) for work in works]
            results = cast(
                "list[Correction | AlignerError]", aligner.correct_many(pairs, return_exceptions=True, **fields)
            )
    except BaseException as error:
        for run, work in zip(runs, works, strict=True):
            _end(run, work, error)
        raise
    for run, work, result in zip(runs, works, results, strict=True):
        _end(run, work, result)
    return results


async def acorrect_many(
    aligner: Aligner, works: Sequence[Work], fields: dict[str, Any]
) -> list[Correction | AlignerError]:
    """`correct_many` without blocking the event loop."""
    if not works:
        return []
    runs = [await _astarted(work) for work in works]
    try:
        with _aside(runs[0], *works):
            pairs = [(work.question, work.answer) for work in works]
            results = cast(
                "list[Correction | AlignerError]", await aligner.acorrect_many(pairs, return_exceptions=True, **fields)
            )
    except BaseException as error:
        for run, work in zip(runs, works, strict=True):
            await _aend(run, work, error)
        raise
    for run, work, result in zip(runs, works, results, strict=True):
        await _aend(run, work, result)
    return results


# As it is written ---------------------------------------------------------------------------------------------------


def stream(aligner: Aligner, work: Work, fields: dict[str, Any]) -> Generator[str | Correction, None, None]:
    """Yield the corrected text as the aligner writes it, and the correction as the last item."""
    run = _started(work)
    try:
        with closing(aligner.stream(work.question, work.answer, **fields)) as pieces:
            while True:
                # Step by step: between two pieces the context is that of whoever reads the stream.
                with _aside(run, work):
                    piece = next(pieces, None)
                if piece is None:
                    break
                yield piece
    except BaseException as error:
        _end(run, work, error)
        raise
    correction = cast("Correction", pieces.correction)
    _end(run, work, correction)
    yield correction


async def astream(aligner: Aligner, work: Work, fields: dict[str, Any]) -> AsyncGenerator[str | Correction, None]:
    """`stream` without blocking the event loop; closing it stops the aligner."""
    run = await _astarted(work)
    try:
        async with aclosing(aligner.astream(work.question, work.answer, **fields)) as pieces:
            while True:
                with _aside(run, work):
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                yield piece
    except BaseException as error:
        await _aend(run, work, error)
        raise
    correction = cast("Correction", pieces.correction)
    await _aend(run, work, correction)
    yield correction


# Runs ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _aside(run: Run | None, *works: Work) -> Iterator[None]:
    """Make what is called in here part of the run, and the aligner's own business; records belong to who asked for each."""
    work = works[0]
    asked = [one.run or run for one in works]
    ids = [] if has_request() else [str(one.run_id) for one in asked if one is not None]
    manager = unseen(run or work.run, CallbackManager([]), anybody if work.traced else nobody)
    manager.add_tags([INTERNAL_TAG])
    belonging = for_request(*ids) if len(ids) == len(works) else nullcontext()
    with traced_as(work.run) if work.traced else untraced(), reporting_to(manager), belonging:
        yield


def _listened_to(manager: BaseCallbackManager) -> bool:
    """Whether anybody would see a run: not if the recorder is alone, and then it need not be made."""
    return any(not isinstance(handler, UpstreamRecorder) for handler in manager.handlers)


def _started(work: Work) -> CallbackManagerForChainRun | None:
    manager = unseen(work.run, CallbackManager([]), anybody if work.traced else nobody)
    if not _listened_to(manager):
        return None
    with traced_as(work.run):
        return manager.on_chain_start(None, _inputs(work), name=_NAME)


async def _astarted(work: Work) -> AsyncCallbackManagerForChainRun | None:
    manager = unseen(work.run, AsyncCallbackManager([]), anybody if work.traced else nobody)
    if not _listened_to(manager):
        return None
    with traced_as(work.run):
        return await manager.on_chain_start(None, _inputs(work), name=_NAME)


def _end(run: CallbackManagerForChainRun | None, work: Work, result: Correction | BaseException) -> None:
    if run is None:
        return
    with traced_as(work.run):
        if isinstance(result, Correction):
            run.on_chain_end(_outputs(result))
        else:
            run.on_chain_error(result)


async def _aend(run: AsyncCallbackManagerForChainRun | None, work: Work, result: Correction | BaseException) -> None:
    if run is None:
        return
    with traced_as(work.run):
        if isinstance(result, Correction):
            await run.on_chain_end(_outputs(result))
        else:
            await run.on_chain_error(result)


def _inputs(work: Work) -> dict[str, Any]:
    return {"question": work.question, "answer": work.answer, "question_from": work.question_from}


def _outputs(correction: Correction) -> dict[str, Any]:
    return {"text": correction.text, **correction.record()}
