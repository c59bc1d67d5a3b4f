"""Nothing is lost: a correction changes the sentences that the gate objects to, and all else of the answer stays to the letter.

One walk for whole corrections and for streams. The correction is read word by word beside the answer. While both say the same,
it is shown. Where they part, the correction is held back until it is back among words that stay, or ends; then what it wrote is
given to the sentences that are asked for, the others come from the answer, and neither is touched again.

What lives elsewhere: which sentences are asked for (`editable.py`), words, sentences and what no edit may touch (`passages.py`),
the older guard that looks at each edit (`edits.py`), who is guarded and by what (`policy.py`).
"""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Callable, Sequence
from functools import cached_property, partial

from aligner_integrations.backends.score import Score
from aligner_integrations.editable import FEW, SHORT, Editable
from aligner_integrations.errors import LostTextError
from aligner_integrations.passages import WORD, Passage, Span, apart, between, in_line, runs
from aligner_integrations.refusals import declines

# So many words in a row are the same place, not chance; and a sentence is shown once so many of its words are the answer's.
_SAME = 4
# difflib's time grows with the square of this many words, or faster.
_COMPARED = 160
LARGE = 0.2
"""An answer that has lost more than this share of its words has lost a large part."""

_Word = tuple[str, str]
"""The white space before a word, and the word."""


def is_guarded(answer: str) -> bool:
    """Whether there is something around the sentence that is corrected: one of two dozen words is left to the aligner."""
    passage = Passage(answer.strip())
    return len(passage) > SHORT or len(passage.sentences) > 1


class Guard:
    """What is shown of one correction, piece by piece.

    To guard what it shows once more changes nothing. Where it would, the aligner wrote the answer's own words in so many other
    places that nobody can say which of them it kept, and the correction is an error.

    Args:
        answer: The answer.
        threshold: A token of the score above it is marked; None: no score says where the answer needs correction, so any
            sentence may change, but for what no edit may touch, and if not a dozen words go at once.
        score: Returns the answer's score, from the first word on in which the two differ. None: nobody could judge it;
            then the text comes from a fallback, and is left as it is.
        objects: Whether, by its score, the answer as a whole is objected to: then any sentence may change, and a refusal may take
            the place of all of them.
    """

    def __init__(
        self,
        answer: str,
        threshold: float | None,
        score: Callable[[], Score | None],
        objects: Callable[[Score], bool] = lambda score: False,
    ) -> None:
        self._anew = partial(Guard, answer, threshold, score, objects)
        self._where = Editable(answer, threshold, score, objects)
        self._answer = self._where.answer
        self._at = 0  # how many of the answer's words are behind
        self._shown = 0  # how many of them are out: all, or fewer in the first words of a sentence
        self._gone: int | None = None  # the first of the words that went last, if nothing came in their place
        self._last: str | None = None  # the last word that is out, if the answer may go on after others
        self._tail = ""  # of the correction: the last word may go on
        self._held: list[_Word] = []
        self._lost = 0
        self._out: list[str] = []

    def feed(self, piece: str) -> str:
        """Take a piece of the correction; return what can be shown."""
        if self.complete:
            return ""
        self._tail += piece
        out, end = [], 0
        for match in WORD.finditer(self._tail):
            if match.end() == len(self._tail):
                break
            # Word by word, so that the text is the same however the pieces are cut.
            out += [self._take(self._tail[end : match.start()], match[0]), self._ahead()]
            end = match.end()
            if self.complete:
                break
        self._tail = self._tail[end:]
        self._out.append("".join(out))
        return self._out[-1]

    @property
    def complete(self) -> bool:
        """Whether all is out: nothing that the correction may still say would be shown."""
        if (places := self._where.places) is None or self._shown < len(self._answer):
            return False
        return not places or places[-1].end < len(self._answer)  # else the correction may go on in the last one

    def end(self) -> str:
        """The correction is over: return what is left to show; nothing if nothing was written.

        Raises:
            LostTextError: Without a score, a large part of the answer went; or words of it went to so many other places that
                nobody can say what was kept.
        """
        rest = self._rest()
        if self._lost > LARGE * len(self._answer):
            raise LostTextError(
                f"The correction lost {self._lost} of the answer's {len(self._answer)} words, and nothing says that they needed "
                "correction. Set on_error to keep or block such answers, or edits='all' if this aligner rewrites."
            )
        shown = "".join(self._out).strip()
        if shown != self._answer.text and not self._stays(shown):
            raise LostTextError(
                "The correction says the answer's own words in other places, so that what it kept cannot be told from what it "
                "wrote. Set on_error to keep or block such answers, or edits='all' if this aligner rewrites."
            )
        return rest

    def _rest(self) -> str:
        out = self.feed(" ")  # the last word is complete
        if self._held or self._at:
            self._hold()
            self._out.append(self._pass_on() if self._declines() else self._settle(len(self._answer), self._held))
            out += self._out[-1]
        return out

    def _stays(self, shown: str) -> bool:
        """Whether what is shown would be shown again, were it the correction."""
        again = self._anew()
        again.feed(shown)
        again._rest()
        return "".join(again._out).strip() == shown

    # The walk -------------------------------------------------------------------------------------------------------

    def _take(self, gap: str, word: str) -> str:
        answer, at = self._answer, self._at
        if not self._held and at < len(answer) and answer.words[at] == word:
            self._at += 1
            at_end = self._at == len(answer) or answer.begins[self._at] == self._at
            # The first words of two sentences are often the same, so they say little of which one was gone on with, and of
            # the white space before it. Before the first one there is none.
            begun = answer.begins[at] == 0 or self._at - answer.begins[at] >= _SAME
            return self._own(self._at) if at_end or begun else ""
        self._hold()
        self._held.append((gap, word))
        if self._where.places is None:
            return self._pass_on()
        met = self._find([word for _, word in self._held[-_SAME:]], self._at)
        if met is None:
            return ""
        held, self._held = self._held[:-_SAME], []
        out = "" if not held and self._slides(met) else self._settle(met, held)
        self._at = met + _SAME
        return out + self._own(self._at)

    def _hold(self) -> None:
        """Take back into what is held what was not yet shown."""
        answer = self._answer
        self._held[:0] = [(answer.gap(i), answer.words[i]) for i in range(self._shown, self._at)]
        self._at = min(self._at, self._shown)

    def _slides(self, met: int) -> bool:
        """Whether a sentence went of which the words that are out are those of the next one, too; then they stand for these."""
        places, words, at = self._where.places or [], self._answer.words, self._at
        number = bisect.bisect_left(places, at, key=lambda place: place.end)
        if not self._where.judged or number == len(places):
            return False
        start, end = places[number].start, places[number].end
        same = met - end
        if not 0 < same <= at - start or words[at - same : at] != words[end:met] or self._breaks(at - same, end, []):
            return False
        self._shown = met
        return True

    def _ahead(self) -> str:
        """The answer's words up to the next place that the gate objects to: they stay, whatever the correction says."""
        begun = self._at or self._held  # what nothing was written for is an error, not the answer
        where = self._where
        if not where.judged or not begun or (places := where.places) is None or where.all_over:
            return ""
        number = bisect.bisect_left(places, self._at, key=lambda place: place.end)
        return self._own(places[number].start if number < len(places) else len(self._answer))

    def _find(self, words: Sequence[str], start: int) -> int | None:
        """Where the answer says these words next, from `start` on, if they stay there; without a score, wherever it is."""
        found = self._index.get(tuple(words), [])
        number = bisect.bisect_left(found, start)
        if number == len(found):
            return None
        places = (self._where.places or []) if self._where.judged else []
        near = bisect.bisect_right(places, found[number], key=lambda place: place.end)
        return found[number] if near == len(places) or found[number] + _SAME <= places[near].start else None

    @cached_property
    def _index(self) -> dict[tuple[str, ...], list[int]]:
        """Where the answer says so many words in a row."""
        index: dict[tuple[str, ...], list[int]] = {}
        for number, run in enumerate(runs(self._answer.words, _SAME)):
            index.setdefault(run, []).append(number)
        return index

    def _declines(self) -> bool:
        """Whether the correction is a text of its own."""
        if self._shown or not self._where.all_over:
            return False
        ours, theirs = self._answer.words, [word for _, word in self._held]
        if set(runs(ours, _SAME)).isdisjoint(runs(theirs, _SAME)):
            return True
        # A refusal may name what it refuses, in the words of the question and of the answer's beginning.
        return self._where.whole and declines(self._answer.text, "".join(gap + word for gap, word in self._held))

    # What becomes of a difference -----------------------------------------------------------------------------------

    def _settle(self, end: int, held: list[_Word]) -> str:
        """Decide on the words up to `end`, in whose place the correction has what is held."""
        if (places := self._where.places) is None:
            return self._pass_on()
        first = bisect.bisect_left(places, self._at, key=lambda place: place.end)
        last = bisect.bisect_left(places, end, key=lambda place: place.start)
        places = [Span(max(p.start, self._at), min(p.end, end)) for p in places[first:last]]
        out = []
        for place, share in zip(places, self._shares(places, end, held), strict=True):
            out += [self._own(place.start), self._written(place, share)]
        return "".join([*out, self._own(end)])

    def _shares(self, places: list[Span], end: int, held: list[_Word]) -> Sequence[list[_Word] | None]:
        """What the correction has in each of these places; None: that cannot be told."""
        if not held or not places:
            return [held for _ in places]
        answer, words = self._answer, [word for _, word in held]
        # The first words of both begin a line, whatever is before them.
        rest = [
            [
                in_line(answer.gap(number) if number else "\n", answer.words[number])
                for number in range(run.start, run.end)
            ]
            for run in between(places, self._at, end)
        ]
        ours = [in_line(gap if number or self._shown else "\n", word) for number, (gap, word) in enumerate(held)]
        if (cuts := apart(ours, rest)) is not None:
            return [held[a:b] for a, b in cuts]
        low, high = max(self._at, places[0].start - SHORT), min(end, places[-1].end + SHORT)
        if high - low + len(held) > _COMPARED:
            return [None for _ in places]
        shares: list[list[_Word]] = [[] for _ in places]
        matcher = difflib.SequenceMatcher(None, answer.words[low:high], words, autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            for place, share in zip(places, shares, strict=True):
                start, stop = place.start - low, place.end - low
                if tag == "equal":
                    share += held[j1 + max(start, i1) - i1 : j1 + max(min(stop, i2) - i1, 0)]
                elif start <= i1 <= stop if i1 == i2 else i1 < stop and i2 > start:
                    share += held[j1:j2]
                    break  # what was written for several goes into the first
        return shares

    def _written(self, place: Span, share: list[_Word] | None) -> str:
        """What is shown in one place: what the correction has there, or else the answer's own words."""
        if share is None:
            return self._own(place.end)
        answer, start, end = self._answer, place.start, place.end
        first = 0
        while start < end and first < len(share) and share[first][1] == answer.words[start]:
            start, first = start + 1, first + 1
        last = self._once(Span(start, end), share, first)
        while start < end and first < last and share[last - 1][1] == answer.words[end - 1]:
            end, last = end - 1, last - 1
        share = share[first:last]
        gone = end - start - len(share)
        # Where words went in the middle of a sentence and others follow that begin alike, nobody can say which of them went.
        alike = not share and start < end < len(answer) and answer.words[start] == answer.words[end]
        unsure = alike and answer.begins[start] < start
        if unsure or self._breaks(start, end, share) or (not self._where.judged and gone > FEW):
            return self._own(place.end)
        if not self._where.judged:
            self._lost += max(0, gone)
        out = self._own(start)
        self._last = answer.words[start - 1] if start else ""
        if share:
            gap = _joint(answer.gap(start) if start < end else share[0][0], self._last, share[0][1])
            out += "".join([gap, share[0][1], *(before + word for before, word in share[1:])])
            self._last = share[-1][1]
        elif start < end:
            self._gone = start
        self._shown = end
        return out + self._own(place.end)

    def _once(self, place: Span, share: list[_Word], first: int) -> int:
        """How many words of a correction's share come before what the answer will say further on."""
        after = self._answer.words[place.end : place.end + _SAME]
        number, last = first, len(share)
        while number < last:
            words = [word for _, word in share[number : min(number + _SAME, last)]]
            if self._find((words + after)[:_SAME], place.start) is None:
                number += 1
            else:
                number, last = max(first, number - _SAME), number
        return last

    def _breaks(self, start: int, end: int, share: list[_Word]) -> bool:
        """Whether an edit would lose or alter what no edit may touch."""
        answer, text, at = self._answer, "".join(gap + word for gap, word in share), 0
        first = bisect.bisect_right(answer.protected, start, key=lambda span: span.end)
        last = bisect.bisect_left(answer.protected, end, key=lambda span: span.start)
        for span in answer.protected[first:last]:
            own = answer.text[answer.starts[span.start] : answer.ends[span.end - 1]]
            at = text.find(own, at)
            if at < 0:
                return True
            at += len(own)
        return False

    def _own(self, end: int) -> str:
        """The answer's own words up to one, as far as they are not out."""
        answer, start = self._answer, self._shown
        if start >= end:
            return ""
        gap = answer.gap(start)
        if (
            self._gone is not None
        ):  # of the white space before and after words that went, line breaks stay; else the shorter
            gap = max(answer.gap(self._gone), gap, key=lambda one: (one.count("\n"), -len(one)))
        if self._last is not None:
            gap = _joint(gap, self._last, answer.words[start])
        self._gone, self._last, self._shown = None, None, end
        return gap + answer.text[answer.starts[start] : answer.ends[end - 1]]

    def _pass_on(self) -> str:
        out = "".join(gap + word for gap, word in self._held)
        self._held = []
        self._at = self._shown = len(self._answer)
        return out


def _joint(gap: str, before: str, word: str) -> str:
    """White space between two words that did not stand beside each other; enough that they do not become one."""
    return gap or (" " if before.isalnum() and word.isalnum() else "")
