"""`Corrector`: an aligner as LlamaIndex needs it, with the sources of an answer. Every class of this folder has one.

It adapts what LlamaIndex brings along to what an `Aligner` takes: an evaluator becomes `accept` over the sources, the
sources' citations become `repair`, and each correction is told to LlamaIndex's instrumentation. Whether and how an
answer is corrected is still decided by the `Aligner` alone.

What lives elsewhere: the types that answers come in (`response.py` and the wrappers), citations (`citations.py`), and
answers that are a list of answers (`accumulated.py`).
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, cast, get_args

from llama_index.core.evaluation import BaseEvaluator
from llama_index.core.schema import MetadataMode, NodeWithScore

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index import accumulated, events
from aligner_integrations.llama_index.citations import (
    CitationFilter,
    Citations,
    carry_citations,
    cited,
    lost,
)
from aligner_integrations.policy import Accept
from aligner_integrations.streaming import AsyncCorrectionStream, CorrectionStream

EMPTY_RESPONSE = "Empty Response"
"""What LlamaIndex's synthesizers say when nothing was retrieved or the LLM said nothing: a signal, not an answer."""


@dataclass(frozen=True, slots=True)
class Corrector:
    """An aligner and how its corrections are shown in LlamaIndex. Holds no state of a call.

    Attributes:
        aligner: Corrects the text. Its `accept` may be a LlamaIndex evaluator.
        citations: What becomes of citation markers; see `Citations`.
        include_original: Also put the upstream's text into the record.
        pydantic_field: The field of a structured response that holds the answer; None leaves such responses alone.
    """

    aligner: Aligner
    citations: Citations = "keep"
    include_original: bool = False
    pydantic_field: str | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigurationError: `citations` is none of its values, or `aligner` is no aligner.
        """
        if not isinstance(self.aligner, Aligner):
            raise ConfigurationError(f"An Aligner is needed, got {type(self.aligner).__name__}.")
        if self.citations not in get_args(Citations):
            raise ConfigurationError(f"citations is {self.citations!r}; it takes one of {get_args(Citations)}.")

    # One correction -------------------------------------------------------------------------------------------------

    def correct(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> Correction:
        """Correct an answer that was made from these sources; a list of accumulated answers one by one."""
        if parts := accumulated.split(answer):
            corrections = self.correct_texts(question, [text for _, text in parts], sources)
            return accumulated.join(question, answer, [heading for heading, _ in parts], corrections)
        events.started(question, answer)
        try:
            aligner = self._for(answer, sources, asynchronous=False)
            correction = _left_alone(question, answer) or aligner.correct(question, answer)
        except Exception as error:
            events.failed(error)
            raise
        events.ended(correction)
        return correction

    async def acorrect(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> Correction:
        """`correct` without blocking the event loop."""
        if parts := accumulated.split(answer):
            corrections = await self.acorrect_texts(question, [text for _, text in parts], sources)
            return accumulated.join(question, answer, [heading for heading, _ in parts], corrections)
        events.started(question, answer)
        try:
            aligner = self._for(answer, sources, asynchronous=True)
            correction = _left_alone(question, answer) or await aligner.acorrect(question, answer)
        except Exception as error:
            events.failed(error)
            raise
        events.ended(correction)
        return correction

    # Many texts that answer the question, each by itself --------------------------------------------------------------

    def correct_texts(
        self, question: str, texts: Sequence[str], sources: Sequence[NodeWithScore] | None = None
    ) -> list[Correction]:
        """Correct texts as one batch. Without sources each text is its own source."""
        for text in texts:
            events.started(question, text)
        try:
            aligner = self._over(sources, asynchronous=False)
            aligner.repair = self._repair
            done = iter(aligner.correct_many(_to_correct(question, texts)))
        except Exception as error:
            events.failed(error)
            raise
        corrections = [_left_alone(question, text) or next(done) for text in texts]
        for correction in corrections:
            events.ended(correction)
        return corrections

    async def acorrect_texts(
        self, question: str, texts: Sequence[str], sources: Sequence[NodeWithScore] | None = None
    ) -> list[Correction]:
        """`correct_texts` without blocking the event loop."""
        for text in texts:
            events.started(question, text)
        try:
            aligner = self._over(sources, asynchronous=True)
            aligner.repair = self._repair
            done = iter(await aligner.acorrect_many(_to_correct(question, texts)))
        except Exception as error:
            events.failed(error)
            raise
        corrections = [_left_alone(question, text) or next(done) for text in texts]
        for correction in corrections:
            events.ended(correction)
        return corrections

    # As it is written -----------------------------------------------------------------------------------------------

    def stream(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> CorrectionStream:
        """Yield the corrected text as the aligner writes it, or after the last decision if there is one."""
        return CorrectionStream(self._pieces(question, answer, sources))

    def astream(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> AsyncCorrectionStream:
        """`stream` without blocking the event loop."""
        return AsyncCorrectionStream(self._apieces(question, answer, sources))

    def _pieces(self, question: str, answer: str, sources: Sequence[NodeWithScore]) -> Generator[str, None, Correction]:
        events.started(question, answer)
        try:
            correction = _left_alone(question, answer)
            if correction is not None:
                yield answer
            else:
                shown, aligner = _Shown(answer, sources), self._for(answer, sources, asynchronous=False, live=True)
                with closing(aligner.stream(question, answer)) as pieces:
                    for piece in pieces:
                        if text := shown.feed(piece):
                            yield text
                correction, rest = shown.end(cast(Correction, pieces.correction))  # read to its end
                if rest:
                    yield rest
                if self.aligner.record is not None:
                    self.aligner.record(correction)
        except Exception as error:
            events.failed(error)
            raise
        events.ended(correction)
        return correction

    async def _apieces(
        self, question: str, answer: str, sources: Sequence[NodeWithScore]
    ) -> AsyncGenerator[str | Correction, None]:
        events.started(question, answer)
        try:
            correction = _left_alone(question, answer)
            if correction is not None:
                yield answer
            else:
                shown, aligner = _Shown(answer, sources), self._for(answer, sources, asynchronous=True, live=True)
                async with aclosing(aligner.astream(question, answer)) as pieces:
                    async for piece in pieces:
                        if text := shown.feed(piece):
                            yield text
                correction, rest = shown.end(cast(Correction, pieces.correction))  # read to its end
                if rest:
                    yield rest
                if self.aligner.record is not None:
                    self.aligner.record(correction)
        except Exception as error:
            events.failed(error)
            raise
        events.ended(correction)
        yield correction

    # Records --------------------------------------------------------------------------------------------------------

    def record(self, correction: Correction, question_from: str = "query") -> dict[str, Any]:
        """Return the record that travels with a response.

        Args:
            correction: What was done.
            question_from: Where the question was found.
        """
        record = correction.record(include_original=self.include_original)
        record["question_from"] = question_from
        if gone := lost(correction.answer, correction.text):
            record["citations_lost"] = gone
        return record

    async def arecord(self, correction: Correction, question_from: str = "query") -> dict[str, Any]:
        """`record` without blocking the event loop: the share that changed comes from a diff, which may take a while."""
        return await asyncio.to_thread(self.record, correction, question_from)

    # What LlamaIndex adds to an aligner -----------------------------------------------------------------------------

    def _for(self, answer: str, sources: Sequence[NodeWithScore], *, asynchronous: bool, live: bool = False) -> Aligner:
        """Return the aligner for one answer."""
        aligner = self._over(sources, asynchronous=asynchronous)
        # A live stream of an answer that cites nothing goes on as it is written; see _Shown.
        if cited(answer) or (sources and not live):
            aligner.repair = self._repair
        if live:
            aligner.record = None  # what is shown is known at the end of the stream
        return aligner

    def _over(self, sources: Sequence[NodeWithScore] | None, *, asynchronous: bool) -> Aligner:
        """Return a copy that shares everything but an evaluator, which becomes a function that knows the sources."""
        aligner = copy.copy(self.aligner)
        evaluator: Any = aligner.accept  # an Aligner does not know evaluators, and does not call what is no function
        if isinstance(evaluator, BaseEvaluator):
            contexts = None if sources is None else [s.get_content(metadata_mode=MetadataMode.NONE) for s in sources]
            aligner.accept = _as_accept(evaluator, contexts, asynchronous=asynchronous)
        return aligner

    def _repair(self, answer: str, correction: str) -> str:
        if self.aligner.repair is not None:
            correction = self.aligner.repair(answer, correction)
        return carry_citations(answer, correction, self.citations)


class _Shown:
    """What is shown of a live stream: all of it, without citations that the aligner invented."""

    def __init__(self, answer: str, sources: Sequence[NodeWithScore]) -> None:
        self._filter = CitationFilter() if sources and not cited(answer) else None
        self._text = ""

    def feed(self, piece: str) -> str:
        if self._filter is None:
            return piece
        text = self._filter.feed(piece)
        if self._filter.dropped and not self._text:
            text = text.lstrip()
        self._text += text
        return text

    def end(self, correction: Correction) -> tuple[Correction, str]:
        """Return the correction as it was shown, and what is left to show."""
        if self._filter is None:
            return correction, ""
        rest = self._filter.end()
        if not self._filter.dropped:
            return correction, rest
        rest = rest.rstrip() if self._text else rest.strip()
        text = self._text + rest
        if text == correction.answer:
            return dataclasses.replace(correction, text=text, outcome="kept", reason="unchanged"), rest
        return dataclasses.replace(correction, text=text), rest


def make_corrector(
    aligner: Aligner | None,
    options: dict[str, Any],
    *,
    citations: Citations,
    include_original: bool,
    pydantic_field: str | None = None,
) -> Corrector:
    """Make a corrector from what a wrapper's constructor was given.

    Raises:
        ConfigurationError: Both an aligner and options for one.
    """
    if aligner is not None and options:
        raise ConfigurationError(
            f"Give either an aligner or options for one, not both: an aligner was passed with {sorted(options)}."
        )
    return Corrector(Aligner(**options) if aligner is None else aligner, citations, include_original, pydantic_field)


def _left_alone(question: str, answer: str) -> Correction | None:
    """Return the record of an answer that must not be aligned for LlamaIndex's reasons; None if there is no such."""
    return Correction(question, answer, answer, "skipped", "empty_response") if answer == EMPTY_RESPONSE else None


def _to_correct(question: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(question, text) for text in texts if _left_alone(question, text) is None]


def _as_accept(evaluator: BaseEvaluator, contexts: list[str] | None, *, asynchronous: bool) -> Accept:
    """Return an evaluator as an aligner's `accept`: passing is accepted. Contexts of None: the answer is the source."""

    def accept(question: str, answer: str, correction: str) -> bool:
        over = [answer] if contexts is None else contexts
        return bool(evaluator.evaluate(query=question, response=correction, contexts=over).passing)

    async def aaccept(question: str, answer: str, correction: str) -> bool:
        over = [answer] if contexts is None else contexts
        return bool((await evaluator.aevaluate(query=question, response=correction, contexts=over)).passing)

    return aaccept if asynchronous else accept
