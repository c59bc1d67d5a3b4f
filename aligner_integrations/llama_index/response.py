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
from llama_index.core.types import TokenAsyncGen, TokenGen

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError, InvalidTextError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector
from aligner_integrations.llama_index.messages import metadata_of

METADATA_KEY = "aligner"
"""Where the record of a correction is found in a response's metadata."""

_R = TypeVar("_R", bound=RESPONSE_TYPE)


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
    stream. LlamaIndex's "Empty Response" is left alone, and so are an answer to a question without words, and a
    `PydanticResponse` without `pydantic_field`. A thought at the beginning (`<think>`) stays as it is.

    The record is a key of the metadata among the nodes' ids, as LlamaIndex's router and SQL engines add some. So what the
    sources say of themselves is read from them: `[node.metadata["file_name"] for node in response.source_nodes]`. Of a blocked
    answer's metadata only the sources' is left.

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
    return align(Corrector(aligner, citations, include_original, pydantic_field, question_from), question, response)


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
    corrector = Corrector(aligner, citations, include_original, pydantic_field, question_from)
    return await aalign(corrector, question, response)


def align(corrector: Corrector, question: str, response: RESPONSE_TYPE) -> RESPONSE_TYPE:
    """`align_response` with a corrector that is already made."""
    answer = _answer_in(response, corrector.pydantic_field)
    if answer is None:
        return _align_later(corrector, question, response)
    return _aligned(corrector, response, *corrector.recorded(question, answer, response.source_nodes))


async def aalign(corrector: Corrector, question: str, response: RESPONSE_TYPE) -> RESPONSE_TYPE:
    """`align` without blocking the event loop."""
    answer = _answer_in(response, corrector.pydantic_field)
    if answer is None:
        return _align_later(corrector, question, response)
    return _aligned(corrector, response, *await corrector.arecorded(question, answer, response.source_nodes))


def _answer_in(response: RESPONSE_TYPE, field: str | None) -> str | None:
    """Return the answer that a response holds; None if there is none to correct now.

    Raises:
        ConfigurationError: The field of a structured response that should hold it is no string.
    """
    if isinstance(response, Response):
        return response.response or ""
    # isinstance only: PydanticResponse answers None to any attribute, so that hasattr() is true of everything.
    if not isinstance(response, PydanticResponse) or field is None or response.response is None:
        return None
    answer = getattr(response.response, field, None)
    if not isinstance(answer, str):
        raise ConfigurationError(
            f"pydantic_field is {field!r}, but {type(response.response).__name__}.{field} is no string."
        )
    return answer


def _aligned(corrector: Corrector, response: _R, correction: Correction, record: dict[str, Any]) -> _R:
    aligned = _fresh(response)
    if isinstance(aligned, PydanticResponse):
        value: Any = aligned.response
        aligned.response = value.model_copy(update={corrector.pydantic_field: correction.text})
    elif correction.changed:  # otherwise a response of None stays None
        cast(Response, aligned).response = correction.text
    _attach(aligned, record, blocked=correction.blocked)
    return aligned


def _align_later(corrector: Corrector, question: str, response: _R) -> _R:
    """Align what takes no work before it is read, or none at all, and is therefore the same in both worlds."""
    if not isinstance(response, StreamingResponse | AsyncStreamingResponse | PydanticResponse):
        raise InvalidTextError(f"Only LlamaIndex's own response types can be aligned, got {type(response).__name__}.")
    aligned, upstream = _fresh(response), cast(Any, response)
    if isinstance(aligned, PydanticResponse):
        text = str(response)
        _attach(aligned, corrector.record(Correction(question, text, text, "skipped", "pydantic")))
    elif isinstance(aligned, StreamingResponse):
        aligned.response_txt, aligned.response_gen = None, _pieces(corrector, question, upstream, aligned)
    elif isinstance(aligned, AsyncStreamingResponse):
        aligned.response_txt, aligned.response_gen = None, _apieces(corrector, question, upstream, aligned)
    return aligned


def _pieces(corrector: Corrector, question: str, upstream: StreamingResponse, aligned: StreamingResponse) -> TokenGen:
    with corrector.aligner.prefill(question) as prefill:
        # get_response() and not response_gen: some engines (RetryQueryEngine) return a stream that was read already, and
        # others may still want to look at the upstream's response after it was read here.
        if (gen := upstream.response_gen) is not None:
            upstream.response_gen = cast(TokenGen, prefill.through(gen))
        try:
            answer = upstream.get_response().response or ""
        finally:
            upstream.response_gen = gen
        with closing(corrector.stream(question, answer, upstream.source_nodes)) as pieces:
            yield from pieces
    correction = cast(Correction, pieces.correction)  # read to its end
    _attach(aligned, corrector.record(correction), blocked=correction.blocked)


async def _apieces(
    corrector: Corrector, question: str, upstream: AsyncStreamingResponse, aligned: AsyncStreamingResponse
) -> TokenAsyncGen:
    with corrector.aligner.prefill(question) as prefill:
        if (gen := upstream.response_gen) is not None:
            upstream.response_gen = cast(TokenAsyncGen, prefill.athrough(gen))
        try:
            answer = (await upstream.get_response()).response or ""
        finally:
            upstream.response_gen = gen
        async with aclosing(corrector.astream(question, answer, upstream.source_nodes)) as pieces:
            async for piece in pieces:
                yield piece
    correction = cast(Correction, pieces.correction)  # read to its end
    _attach(aligned, await corrector.arecord(correction), blocked=correction.blocked)


def _fresh(response: _R) -> _R:
    """Copy a response; the record of an aligner further in describes another correction and stays with the original."""
    metadata = {key: value for key, value in (response.metadata or {}).items() if key != METADATA_KEY}
    return dataclasses.replace(response, source_nodes=[*(response.source_nodes or ())], metadata=metadata)


def _attach(aligned: _R, record: dict[str, Any], *, blocked: bool = False) -> None:
    # At the end of a stream the metadata may be another object than at its start: RouterQueryEngine swaps an empty one.
    if aligned.metadata is None:
        aligned.metadata = {}
    if blocked:
        aligned.metadata = metadata_of(aligned.source_nodes)
    aligned.metadata[METADATA_KEY] = record
