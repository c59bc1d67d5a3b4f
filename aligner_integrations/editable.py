"""Where an answer may change: the sentences that the gate objects to. What a correction does there is up to `guard.py`."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from aligner_integrations.backends.score import Score
from aligner_integrations.passages import Passage, Span, between

FEW = 12
"""A dozen words: more than that go only where the gate asks for it."""

SHORT = 2 * FEW
"""A sentence of two dozen words is the aligner's as a whole; of a longer one, a dozen words around those that are marked."""


class Editable:
    """Where a correction may differ from its answer.

    Args:
        answer: The answer, with outer white space as it came.
        threshold: A token of the score above it is marked; None: no score says where the answer needs correction, so any sentence
            may change.
        score: Returns the answer's score, and is called when it is needed. None: nobody could judge it.
        objects: Whether, by its score, the answer as a whole is objected to: then any sentence may change.

    Attributes:
        answer: The answer without outer white space.
        judged: Whether a score says where the answer needs correction.
        whole: Whether the answer as a whole is objected to; known once `places` is.
    """

    def __init__(
        self, answer: str, threshold: float | None, score: Callable[[], Score | None], objects: Callable[[Score], bool]
    ) -> None:
        self.answer = Passage(answer.strip())
        self.judged = threshold is not None
        self.whole = False
        self._lead = len(answer) - len(answer.lstrip())
        self._threshold = threshold
        self._score = score
        self._objects = objects
        self._found: list[Span] | None = None

    @property
    def places(self) -> list[Span] | None:
        """The sentences with a marked word, as far as they are near it, as ranges of words, in order; None: not known."""
        if self._found is None:
            if self._threshold is None:
                self._found = self._joined(self.answer.sentences)
            elif (score := self._score()) is not None:
                self.whole = self._objects(score)
                near = self.answer.sentences if self.whole else self._near(score, self._threshold)
                self._found = self._joined(near)
        return self._found

    @cached_property
    def all_over(self) -> bool:
        """Whether the gate objects to the answer all over, so that another text may take its place, as a refusal does."""
        if not self.judged or not self.places:
            return False
        if self.whole:
            return True
        rest = between(self.places, 0, len(self.answer))
        return all(number in self._protected for run in rest for number in range(run.start, run.end))

    def _near(self, score: Score, threshold: float) -> Iterator[Span]:
        """The sentences of marked words, or what is around these."""
        tokens = [token for token in score.marked(threshold) if token.text]
        spans = self.answer.covering((token.start - self._lead, token.end - self._lead) for token in tokens)
        for span in spans:
            number = bisect.bisect_right(self.answer.sentences, span.start, key=lambda sentence: sentence.start) - 1
            sentence = self.answer.sentences[number]
            reach = SHORT if sentence.end - sentence.start <= SHORT else FEW
            yield Span(max(sentence.start, span.start - reach), min(sentence.end, span.end + reach))

    def _joined(self, near: Iterable[Span]) -> list[Span]:
        places: list[Span] = []
        for place in map(self._without_markup, near):
            if places and place.start <= places[-1].end:
                places[-1] = Span(places[-1].start, max(places[-1].end, place.end))
            elif place.start < place.end:
                places.append(place)
        return places

    def _without_markup(self, place: Span) -> Span:
        start, end = place.start, place.end
        while start < end and start in self._protected:
            start += 1
        while start < end and end - 1 in self._protected:
            end -= 1
        return Span(start, end)

    @cached_property
    def _protected(self) -> set[int]:
        return {number for span in self.answer.protected for number in range(span.start, span.end)}
