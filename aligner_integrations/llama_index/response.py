"""Aligning one LlamaIndex response: the function pair that every class of this folder ends in.

A response that comes in is never changed: LlamaIndex's events, and whoever else holds it, keep what the upstream said,
and the caller gets a fresh object of the same type with the text replaced. Source nodes stay as they are.

What lives elsewhere: where responses come from and what the question is (`query_engine.py`, `synthesizer.py`), and
what happens to one text (`corrector.py`).
"""

from __future__ import annotations

import dataclasses
from contextlib import aclosing, closing
from typing import Any, TypeVar, cast

from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.schema import QueryType
from llama_index.core.types import TokenAsyncGen, TokenGen

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError, InvalidTextError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector

METADATA_KEY = "aligner"
"""Where the record of a correction is found in a response's metadata."""

_R = TypeVar("_R", Response, StreamingResponse, AsyncStreamingResponse, PydanticResponse)


def align_response(
    aligner: Aligner,
    question: str,
    response: RESPONSE_TYPE,
    *,
    question_from: str = "query",
    citations: Citations = "keep",
    include_original: bool = False,
    pydantic_field: str | None = None,
) -> RESPONSE_TYPE:
    """Return a fresh response of the same type with the corrected text.

    A streaming response comes back at once; when it is read, the upstream's stream is read to its end first, then the
    aligner's own pieces follow, so that no uncorrected text is ever shown. Its record is complete at the end of the
    stream. LlamaIndex's "Empty Response" is left alone, and so is a `PydanticResponse` without `pydantic_field`.

    Args:
        aligner: Corrects the text.
        question: The user's words, never the prompt that was built from them.
        response: What the upstream returned.
        question_from: Where the question was found, for the record.
        citations: What becomes of citation markers such as `[1]`: `"keep"` them on sentences that still say the same,
            `"drop"` them, or reject a correction that loses one (`"original_if_lost"`).
        include_original: Also put the upstream's text into the record.
        pydantic_field: The field of a `PydanticResponse` that holds the answer.

    Raises:
        AlignerError: As the aligner's `on_error`, `on_overflow` and `on_reject` say; for a stream, while it is read.
    """
    return align(Corrector(aligner, citations, include_original, pydantic_field), question, response, question_from)


async def aalign_response(
    aligner: Aligner,
    question: str,
    response: RESPONSE_TYPE,
    *,
    question_from: str = "query",
    citations: Citations = "keep",
    include_original: bool = False,
    pydantic_field: str | None = None,
) -> RESPONSE_TYPE:
    """`align_response` without blocking the event loop.

    A `StreamingResponse`, which some engines return even from their asynchronous methods, stays one: reading it is
    synchronous for whoever reads it.
    """
    corrector = Corrector(aligner, citations, include_original, pydantic_field)
    return await aalign(corrector, question, response, question_from)


def align(corrector: Corrector, question: str, response: RESPONSE_TYPE, question_from: str = "query") -> RESPONSE_TYPE:
    """`align_response` with a corrector that is already made."""
    if isinstance(response, Response):
        correction = corrector.correct(question, response.response or "", response.source_nodes)
        return _aligned(response, correction, corrector.record(correction, question_from))
    # isinstance only: PydanticResponse answers None to any attribute, so that hasattr() is true of everything.
    if isinstance(response, PydanticResponse):
        answer = _field(response, corrector.pydantic_field)
        if answer is None:
            return _untouched(corrector, question, response, question_from)
        correction = corrector.correct(question, answer, response.source_nodes)
        return _aligned_field(response, corrector, correction, corrector.record(correction, question_from))
    return _align_stream(corrector, question, response, question_from)


async def aalign(
    corrector: Corrector, question: str, response: RESPONSE_TYPE, question_from: str = "query"
) -> RESPONSE_TYPE:
    """`align` without blocking the event loop."""
    if isinstance(response, Response):
        correction = await corrector.acorrect(question, response.response or "", response.source_nodes)
        return _aligned(response, correction, await corrector.arecord(correction, question_from))
    if isinstance(response, PydanticResponse):
        answer = _field(response, corrector.pydantic_field)
        if answer is None:
            return _untouched(corrector, question, response, question_from)
        correction = await corrector.acorrect(question, answer, response.source_nodes)
        return _aligned_field(response, corrector, correction, await corrector.arecord(correction, question_from))
    return _align_stream(corrector, question, response, question_from)


# How LlamaIndex's retry engines ask again: with the answer that failed after the user's words, or before them.
_FAILED = "Here is a previous bad answer.\n"
_AFTER, _BEFORE = f"\n----------------\n{_FAILED}", "\nNow answer the question.\n"


def words_of(query: QueryType) -> str:
    """The user's words, without what a retry engine around this one has added to them.

    LlamaIndex's own engines also take a plain string where they declare a QueryBundle.
    """
    words = query if isinstance(query, str) else query.query_str
    if words.startswith(_FAILED):
        words = words.rpartition(_BEFORE)[2]
    return words.partition(_AFTER)[0]


def _align_stream(corrector: Corrector, question: str, response: RESPONSE_TYPE, question_from: str) -> RESPONSE_TYPE:
    """Align what takes no work before it is read, and is therefore the same in both worlds."""
    if isinstance(response, StreamingResponse):
        stream = _fresh(response, response_txt=None)
        stream.response_gen = _pieces(corrector, question, response, stream, question_from)
        return stream
    if isinstance(response, AsyncStreamingResponse):
        astream = _fresh(response, response_txt=None)
        astream.response_gen = _apieces(corrector, question, response, astream, question_from)
        return astream
    raise InvalidTextError(f"Only LlamaIndex's own response types can be aligned, got {type(response).__name__}.")


def _pieces(
    corrector: Corrector, question: str, upstream: StreamingResponse, aligned: StreamingResponse, question_from: str
) -> TokenGen:
    with corrector.aligner.ahead(question) as ahead:
        # get_response() and not response_gen: some engines (RetryQueryEngine) return a stream that was read already, and
        # others may still want to look at the upstream's response after it was read here.
        if (gen := upstream.response_gen) is not None:
            upstream.response_gen = cast(TokenGen, ahead.through(gen))
        try:
            answer = upstream.get_response().response or ""
        finally:
            upstream.response_gen = gen
        with closing(corrector.stream(question, answer, upstream.source_nodes)) as pieces:
            yield from pieces
    _attach(aligned, corrector.record(cast(Correction, pieces.correction), question_from))  # read to its end


async def _apieces(
    corrector: Corrector,
    question: str,
    upstream: AsyncStreamingResponse,
    aligned: AsyncStreamingResponse,
    question_from: str,
) -> TokenAsyncGen:
    with corrector.aligner.ahead(question) as ahead:
        if (gen := upstream.response_gen) is not None:
            upstream.response_gen = cast(TokenAsyncGen, ahead.athrough(gen))
        try:
            answer = (await upstream.get_response()).response or ""
        finally:
            upstream.response_gen = gen
        async with aclosing(corrector.astream(question, answer, upstream.source_nodes)) as pieces:
            async for piece in pieces:
                yield piece
    _attach(aligned, await corrector.arecord(cast(Correction, pieces.correction), question_from))  # read to its end


def _aligned(response: Response, correction: Correction, record: dict[str, Any]) -> Response:
    aligned = _fresh(response)
    if correction.changed:  # otherwise a response of None stays None
        aligned.response = correction.text
    _attach(aligned, record)
    return aligned


def _field(response: PydanticResponse, name: str | None) -> str | None:
    """Return the answer in a structured response; None if it is to be left alone."""
    if name is None or response.response is None:
        return None
    answer = getattr(response.response, name, None)
    if not isinstance(answer, str):
        raise ConfigurationError(
            f"pydantic_field is {name!r}, but {type(response.response).__name__}.{name} is no string."
        )
    return answer


def _aligned_field(
    response: PydanticResponse, corrector: Corrector, correction: Correction, record: dict[str, Any]
) -> PydanticResponse:
    value: Any = response.response
    aligned = _fresh(response, response=value.model_copy(update={corrector.pydantic_field: correction.text}))
    _attach(aligned, record)
    return aligned


def _untouched(corrector: Corrector, question: str, response: PydanticResponse, question_from: str) -> PydanticResponse:
    text = str(response)
    untouched = _fresh(response)
    _attach(untouched, corrector.record(Correction(question, text, text, "skipped", "pydantic"), question_from))
    return untouched


def _fresh(response: _R, /, **changes: Any) -> _R:
    """Copy a response; the record of an aligner further in describes another correction and stays with the original."""
    metadata = {key: value for key, value in (response.metadata or {}).items() if key != METADATA_KEY}
    return dataclasses.replace(response, source_nodes=[*(response.source_nodes or ())], metadata=metadata, **changes)


def _attach(aligned: _R, record: dict[str, Any]) -> None:
    # At the end of a stream the metadata may be another object than at its start: RouterQueryEngine swaps an empty one.
    if aligned.metadata is None:
        aligned.metadata = {}
    aligned.metadata[METADATA_KEY] = record
