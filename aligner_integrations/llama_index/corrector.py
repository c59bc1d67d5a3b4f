"""`Corrector`: an aligner as LlamaIndex needs it, with the sources of an answer. Every class of this folder has one.

It adapts what LlamaIndex brings along to what an `Aligner` takes: an evaluator becomes `accept` over the sources, the
sources' citations become `repair`, a list of accumulated answers is taken apart and joined again, and what is thought at the
beginning of an answer (`<think>`) stays there as it is. Whether and how an answer is corrected is still decided by the
`Aligner` alone.

What lives elsewhere: the types that answers come in (`response.py` and the wrappers), what is told of a correction
(`events.py`), and citations (`citations.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, cast, get_args

from llama_index.core.evaluation import BaseEvaluator
from llama_index.core.schema import MetadataMode, NodeWithScore

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction, Outcome, Usage
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import (
    CitationFilter,
    Citations,
    carry_citations,
    cited,
    lost,
)
from aligner_integrations.llama_index.events import in_span, telling
from aligner_integrations.llama_index.messages import without_marks
from aligner_integrations.policy import Accept
from aligner_integrations.streaming import AsyncCorrectionStream, CorrectionStream
from aligner_integrations.thought import split_thought

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
        question_from: Where the questions are found, for the record.
    """

    aligner: Aligner
    citations: Citations = "keep"
    include_original: bool = False
    pydantic_field: str | None = None
    question_from: str = "query"

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
    # An answer may have marks for a message's citation blocks (`messages.answer_in`): those are never shown, and repaired.

    def correct(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> Correction:
        """Correct an answer that was made from these sources; a list of accumulated answers one by one."""
        if parts := _listed(question, answer):
            return _joined(question, parts, self.correct_texts(question, [text for _, text in parts], sources))
        thought, answer, plain = _parts(answer)
        with telling(question, plain) as told, in_span():
            aligner = self._over(sources, answer)
            told.append(_not_asked(question, plain) or aligner.correct(question, plain))
        return _behind(thought, told[0])

    async def acorrect(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> Correction:
        """`correct` without blocking the event loop."""
        if parts := _listed(question, answer):
            corrections = await self.acorrect_texts(question, [text for _, text in parts], sources)
            return _joined(question, parts, corrections)
        thought, answer, plain = _parts(answer)
        with telling(question, plain) as told, in_span():
            aligner = self._over(sources, answer, asynchronous=True)
            told.append(_not_asked(question, plain) or await aligner.acorrect(question, plain))
        return _behind(thought, told[0])

    # Many texts that answer the question, each by itself --------------------------------------------------------------

    def correct_texts(
        self, question: str, texts: Sequence[str], sources: Sequence[NodeWithScore] | None = None
    ) -> list[Correction]:
        """Correct texts as one batch. Without sources each text is its own source."""
        thoughts, texts = _apart(texts)
        with telling(question, *texts) as told, in_span():
            corrections = self._over(sources).correct_many(_to_correct(question, texts))
            told += _with_left_alone(question, texts, corrections)
        return list(map(_behind, thoughts, told))

    async def acorrect_texts(
        self, question: str, texts: Sequence[str], sources: Sequence[NodeWithScore] | None = None
    ) -> list[Correction]:
        """`correct_texts` without blocking the event loop."""
        thoughts, texts = _apart(texts)
        with telling(question, *texts) as told, in_span():
            corrections = await self._over(sources, asynchronous=True).acorrect_many(_to_correct(question, texts))
            told += _with_left_alone(question, texts, corrections)
        return list(map(_behind, thoughts, told))

    # As it is written -----------------------------------------------------------------------------------------------

    def stream(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> CorrectionStream:
        """Yield the corrected text as the aligner writes it, or after the last decision if there is one."""
        return CorrectionStream(self._pieces(question, answer, sources))

    def astream(self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()) -> AsyncCorrectionStream:
        """`stream` without blocking the event loop."""
        return AsyncCorrectionStream(self._apieces(question, answer, sources))

    def _pieces(self, question: str, answer: str, sources: Sequence[NodeWithScore]) -> Generator[str, None, Correction]:
        thought, answer, plain = _parts(answer)
        with telling(question, plain) as told:
            correction = _not_asked(question, plain)
            if correction is not None:
                yield thought + plain
            else:
                aligner, shown = self._live(thought, answer, sources)
                with closing(aligner.stream(question, plain)) as pieces:
                    for piece in pieces:
                        if text := shown.feed(piece):
                            yield text
                correction, rest = shown.end(cast(Correction, pieces.correction))  # read to its end
                if rest:
                    yield rest
                self._keep(correction)
            told.append(correction)
        return _behind(thought, correction)

    async def _apieces(
        self, question: str, answer: str, sources: Sequence[NodeWithScore]
    ) -> AsyncGenerator[str | Correction, None]:
        thought, answer, plain = _parts(answer)
        with telling(question, plain) as told:
            correction = _not_asked(question, plain)
            if correction is not None:
                yield thought + plain
            else:
                aligner, shown = self._live(thought, answer, sources, asynchronous=True)
                async with aclosing(aligner.astream(question, plain)) as pieces:
                    async for piece in pieces:
                        if text := shown.feed(piece):
                            yield text
                correction, rest = shown.end(cast(Correction, pieces.correction))  # read to its end
                if rest:
                    yield rest
                self._keep(correction)
            told.append(correction)
        yield _behind(thought, correction)

    def blocks(self, piece: str) -> bool:
        """Whether the first piece of a stream is what is shown in place of a blocked answer: then nothing of it may be."""
        return piece == self.aligner.policy.block_message

    # Records --------------------------------------------------------------------------------------------------------

    def recorded(
        self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()
    ) -> tuple[Correction, dict[str, Any]]:
        """`correct`, with the record."""
        correction = self.correct(question, answer, sources)
        return correction, self.record(correction)

    async def arecorded(
        self, question: str, answer: str, sources: Sequence[NodeWithScore] = ()
    ) -> tuple[Correction, dict[str, Any]]:
        """`recorded` without blocking the event loop."""
        correction = await self.acorrect(question, answer, sources)
        return correction, await self.arecord(correction)

    def record(self, correction: Correction) -> dict[str, Any]:
        """Return the record that travels with a response."""
        record = correction.record(include_original=self.include_original)
        record["question_from"] = self.question_from
        if gone := lost(correction.answer, correction.text):
            record["citations_lost"] = gone
        return record

    async def arecord(self, correction: Correction) -> dict[str, Any]:
        """`record` without blocking the event loop: the share that changed comes from a diff, which may take a while."""
        return await asyncio.to_thread(self.record, correction)

    # What LlamaIndex adds to an aligner -----------------------------------------------------------------------------

    def _live(
        self, thought: str, answer: str, sources: Sequence[NodeWithScore], *, asynchronous: bool = False
    ) -> tuple[Aligner, _Shown]:
        """Return the aligner for a stream, and what is shown of it.

        Which sentences may keep their markers is known only once the correction is complete, so that an answer that cites
        is shown at its end. An answer that cites nothing is shown as it is corrected: where it has sources, any marker is
        invented and is taken out on the way; without sources there is nothing to cite, and brackets are just brackets.
        """
        cites = bool(cited(answer))
        aligner = self._over(sources, answer, live=True, asynchronous=asynchronous)
        return aligner, _Shown(thought, self.blocks, filtered=bool(sources) and not cites)

    def _over(
        self,
        sources: Sequence[NodeWithScore] | None,
        answer: str | None = None,
        *,
        live: bool = False,
        asynchronous: bool = False,
    ) -> Aligner:
        """Return the aligner with what LlamaIndex adds to it for one call; the caller's own stays as it is.

        Args:
            sources: What the answer was made from; None: each answer is its own source.
            answer: The answer with its marks; None for several, which have none.
            live: Whether the correction is shown as it is written: invented citations are then taken out on the way, and
                what was shown, and so what is recorded, is known here at its end.
            asynchronous: Whether the aligner is asked by its asynchronous verbs, and may ask an evaluator so.
        """
        added: dict[str, Any] = {}
        evaluator: Any = self.aligner.policy.accept  # typed as a function: an Aligner itself knows no evaluators
        if isinstance(evaluator, BaseEvaluator):
            contexts = None if sources is None else [s.get_content(metadata_mode=MetadataMode.NONE) for s in sources]
            added["accept"] = _as_accept(evaluator, contexts, asynchronous=asynchronous)
        if answer is None or cited(answer) or (sources and not live):
            added["repair"] = functools.partial(self._repair, answer)
        added["record"] = None if live else self.aligner.listener
        return self.aligner.with_options(**added)

    def _repair(self, marked: str | None, answer: str, correction: str) -> str:
        # The caller's own goes first: it may bring a sentence back, and with it the sentence's markers.
        if self.aligner.policy.repair is not None:
            correction = self.aligner.policy.repair(answer, correction)
        return without_marks(carry_citations(answer if marked is None else marked, correction, self.citations))

    def _keep(self, correction: Correction) -> None:
        if (told := self.aligner.listener) is not None:
            with in_span():
                told(correction)


class _Shown:
    """What is shown of a live stream: the thought before it unless it is blocked, then all of it, or all but its citations."""

    def __init__(self, thought: str, blocks: Callable[[str], bool], *, filtered: bool) -> None:
        self._thought = thought
        self._blocks = blocks
        self._filter = CitationFilter() if filtered else None
        self._text = ""

    def feed(self, piece: str) -> str:
        text = piece if self._filter is None else self._filter.feed(piece)
        # The aligner strips its text, but not what a marker at the beginning leaves behind.
        if self._filter is not None and self._filter.dropped and not self._text:
            text = text.lstrip()
        self._text += text
        if not text or not self._thought:
            return text
        thought, self._thought = self._thought, ""
        return text if self._blocks(piece) else thought + text

    def end(self, correction: Correction) -> tuple[Correction, str]:
        """Return the correction as it was shown, and what is left to show."""
        rest = "" if self._filter is None else self._filter.end()
        if self._filter is not None and self._filter.dropped:
            rest = rest.rstrip() if self._text else rest.strip()
            correction = dataclasses.replace(correction, text=self._text + rest)
            if not correction.changed:  # nothing but citations was new, and they are gone again
                correction = dataclasses.replace(correction, outcome="kept", reason="unchanged")
        return correction, rest if correction.blocked else self._thought + rest


def aligner_from(aligner: Aligner | None, /, **options: Any) -> Aligner:
    """Return the aligner that a wrapper's constructor was given, or make one of the options that it does not know.

    Raises:
        ConfigurationError: Both an aligner and options for one.
    """
    if aligner is not None and options:
        raise ConfigurationError(
            f"Give either an aligner or options for one, not both: an aligner was passed with {sorted(options)}."
        )
    return Aligner(**options) if aligner is None else aligner


def _as_accept(evaluator: BaseEvaluator, contexts: list[str] | None, *, asynchronous: bool) -> Accept:
    """Return an evaluator as an aligner's `accept`: passing is accepted. Contexts of None: the answer is the source."""

    def accept(question: str, answer: str, correction: str) -> bool:
        over = [answer] if contexts is None else contexts
        return bool(evaluator.evaluate(query=question, response=correction, contexts=over).passing)

    async def aaccept(question: str, answer: str, correction: str) -> bool:
        over = [answer] if contexts is None else contexts
        return bool((await evaluator.aevaluate(query=question, response=correction, contexts=over)).passing)

    return aaccept if asynchronous else accept


# An answer's parts: what is thought in it, and the rest ------------------------------------------------------------------


def _parts(answer: str) -> tuple[str, str, str]:
    """Return an answer's thought, what is behind it, and that without the marks of citation blocks."""
    thought, answer = split_thought(answer)
    return thought, answer, without_marks(answer)


def _apart(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the thoughts of texts, and what is behind them."""
    parts = [split_thought(text) for text in texts]
    return [thought for thought, _ in parts], [text for _, text in parts]


def _behind(thought: str, correction: Correction) -> Correction:
    """Put the thought in front again: it was not corrected, and is not shown before what is withheld."""
    text = correction.text if correction.blocked else thought + correction.text
    return dataclasses.replace(correction, answer=thought + correction.answer, text=text) if thought else correction


# Answers that must not be aligned for LlamaIndex's reasons ------------------------------------------------------------


def _left_alone(question: str, answer: str) -> Correction | None:
    """Return the correction of an answer that is left alone; None: it goes to the aligner."""
    return Correction(question, answer, answer, "skipped", "empty_response") if answer == EMPTY_RESPONSE else None


def _not_asked(question: str, answer: str) -> Correction | None:
    """The same, also for an answer to a question without words, such as an image: an aligner could only guess it."""
    if not question.strip():
        return Correction(question, answer, answer, "skipped", "no_question")
    return _left_alone(question, answer)


def _to_correct(question: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(question, text) for text in texts if _left_alone(question, text) is None]


def _with_left_alone(question: str, texts: Sequence[str], corrections: Iterable[Correction]) -> list[Correction]:
    done = iter(corrections)
    return [_left_alone(question, text) or next(done) for text in texts]


# Answers that are a list of answers (`response_mode="accumulate"`) ------------------------------------------------------
# Each of them answers the question by itself. An aligner that reads them as one would rewrite the list.

_HEADING = re.compile(r"(?:\A|\n-{21}\n)Response (\d+): ")

# Of several corrections the first of these that happened is what happened to the whole.
_ORDER: tuple[Outcome, ...] = ("failed", "rejected", "corrected", "kept", "skipped")


def split(answer: str) -> list[tuple[str, str]]:
    """Return the heading and the text of each answer in a list of answers; empty if it is no such list."""
    headings: list[re.Match[str]] = []
    for match in _HEADING.finditer(answer):
        if int(match[1]) == len(headings) + 1:  # another number belongs to an answer that quotes such a list
            headings.append(match)
    if not headings or headings[0].start() > 0:
        return []
    ends = [match.start() for match in headings[1:]] + [len(answer)]
    return [(match[0], answer[match.end() : end]) for match, end in zip(headings, ends, strict=True)]


def _listed(question: str, answer: str) -> list[tuple[str, str]]:
    return split(without_marks(answer)) if question.strip() else []


def _joined(question: str, parts: Sequence[tuple[str, str]], corrections: Sequence[Correction]) -> Correction:
    """Return the corrections of all answers in a list as the correction of the list."""
    answer = "".join(map("".join, parts))
    text = "".join(heading + correction.text for (heading, _), correction in zip(parts, corrections, strict=True))
    most = min(corrections, key=lambda correction: _ORDER.index(correction.outcome))
    return Correction(
        question,
        answer,
        text,
        most.outcome,
        most.reason,
        max(correction.rounds for correction in corrections),
        sum((correction.usage for correction in corrections), Usage()),
        max(correction.seconds for correction in corrections),
    )
