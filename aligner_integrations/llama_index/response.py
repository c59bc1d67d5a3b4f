"""Aligning one LlamaIndex response: the function pair that every class of this folder ends in.

A response that comes in is never changed: LlamaIndex's events, and whoever else holds it, keep what the upstream said,
and the caller gets a fresh object of the same type with the text replaced. Source nodes stay as they are.

What lives elsewhere: where responses come from and what the question is (`query_engine.py`), and whether an answer is
corrected at all (`Aligner`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import aclosing, closing
from functools import partial
from typing import Any, TypeVar, cast

from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.types import TokenAsyncGen, TokenGen

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import InvalidTextError

METADATA_KEY = "aligner"
"""Where the record of a correction is found in a response's metadata."""

EMPTY_RESPONSE = "Empty Response"
"""What LlamaIndex's synthesizers say when nothing was retrieved or the LLM said nothing: a signal, not an answer."""

_Record = Callable[[Correction], dict[str, Any]]
_R = TypeVar("_R", Response, StreamingResponse, AsyncStreamingResponse, PydanticResponse)


def align_response(
    aligner: Aligner,
    question: str,
    response: RESPONSE_TYPE,
    *,
    question_from: str = "query",
    include_original: bool = False,
) -> RESPONSE_TYPE:
    """Return a fresh response of the same type with the corrected text.

    A streaming response comes back at once; when it is read, the upstream's stream is read to its end first, then the
    aligner's own pieces follow, so that no uncorrected text is ever shown. Its record is complete at the end of the
    stream. A `PydanticResponse` and LlamaIndex's "Empty Response" are left alone.

    Args:
        aligner: Corrects the text.
        question: The user's words, never the prompt that was built from them.
        response: What the upstream returned.
        question_from: Where the question was found, for the record.
        include_original: Also put the upstream's text into the record.

    Raises:
        AlignerError: As the aligner's `on_error`, `on_overflow` and `on_reject` say; for a stream, while it is read.
    """
    record = partial(_record, question_from=question_from, include_original=include_original)
    if not isinstance(response, Response):
        return _align_other(aligner, question, response, record)
    answer = response.response or ""
    correction = _left_alone(question, answer) or aligner.correct(question, answer)
    return _aligned(response, correction, record(correction))


async def aalign_response(
    aligner: Aligner,
    question: str,
    response: RESPONSE_TYPE,
    *,
    question_from: str = "query",
    include_original: bool = False,
) -> RESPONSE_TYPE:
    """`align_response` without blocking the event loop.

    A `StreamingResponse`, which some engines return even from their asynchronous methods, stays one: reading it is
    synchronous for whoever reads it.
    """
    record = partial(_record, question_from=question_from, include_original=include_original)
    if not isinstance(response, Response):
        return _align_other(aligner, question, response, record)
    answer = response.response or ""
    correction = _left_alone(question, answer) or await aligner.acorrect(question, answer)
    # The record holds the share that changed, and the diff of a long answer takes a while.
    return _aligned(response, correction, await asyncio.to_thread(record, correction))


def _align_other(aligner: Aligner, question: str, response: RESPONSE_TYPE, record: _Record) -> RESPONSE_TYPE:
    """Align what takes no work before it is read, and is therefore the same in both worlds."""
    if isinstance(response, StreamingResponse):
        stream = _fresh(response, response_txt=None)
        stream.response_gen = _pieces(aligner, question, response, stream, record)
        return stream
    if isinstance(response, AsyncStreamingResponse):
        astream = _fresh(response, response_txt=None)
        astream.response_gen = _apieces(aligner, question, response, astream, record)
        return astream
    # isinstance only: PydanticResponse answers None to any attribute, so that hasattr() is true of everything.
    if isinstance(response, PydanticResponse):
        kept = _fresh(response)
        _attach(kept, record(_skipped(question, str(response), "pydantic")))
        return kept
    raise InvalidTextError(f"Only LlamaIndex's own response types can be aligned, got {type(response).__name__}.")


def _pieces(
    aligner: Aligner, question: str, upstream: StreamingResponse, aligned: StreamingResponse, record: _Record
) -> TokenGen:
    # get_response() and not response_gen: some engines (RetryQueryEngine) return a stream that was read already, and
    # others may still want to look at the upstream's response after it was read here.
    answer = upstream.get_response().response or ""
    correction = _left_alone(question, answer)
    if correction is not None:
        yield answer
    else:
        with closing(aligner.stream(question, answer)) as pieces:
            yield from pieces
        correction = cast(Correction, pieces.correction)  # read to its end
    _attach(aligned, record(correction))


async def _apieces(
    aligner: Aligner, question: str, upstream: AsyncStreamingResponse, aligned: AsyncStreamingResponse, record: _Record
) -> TokenAsyncGen:
    answer = (await upstream.get_response()).response or ""
    correction = _left_alone(question, answer)
    if correction is not None:
        yield answer
    else:
        async with aclosing(aligner.astream(question, answer)) as pieces:
            async for piece in pieces:
                yield piece
        correction = cast(Correction, pieces.correction)  # read to its end
    _attach(aligned, await asyncio.to_thread(record, correction))


def _aligned(response: Response, correction: Correction, record: dict[str, Any]) -> Response:
    aligned = _fresh(response)
    if correction.changed:  # otherwise a response of None stays None
        aligned.response = correction.text
    _attach(aligned, record)
    return aligned


def _fresh(response: _R, **changes: Any) -> _R:
    """Copy a response; the record of an aligner further in describes another correction and stays with the original."""
    metadata = {key: value for key, value in (response.metadata or {}).items() if key != METADATA_KEY}
    return dataclasses.replace(response, metadata=metadata, **changes)


def _attach(aligned: _R, record: dict[str, Any]) -> None:
    # At the end of a stream the metadata may be another object than at its start: RouterQueryEngine swaps an empty one.
    if aligned.metadata is None:
        aligned.metadata = {}
    aligned.metadata[METADATA_KEY] = record


def _left_alone(question: str, answer: str) -> Correction | None:
    """Return the record of an answer that must not be aligned for LlamaIndex's reasons; None if there is no such."""
    return _skipped(question, answer, "empty_response") if answer == EMPTY_RESPONSE else None


def _skipped(question: str, answer: str, reason: str) -> Correction:
    return Correction(question, answer, answer, "skipped", reason)


def _record(correction: Correction, *, question_from: str, include_original: bool) -> dict[str, Any]:
    return {**correction.record(include_original=include_original), "question_from": question_from}
