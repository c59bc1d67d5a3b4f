"""A correction that goes round in circles ends after its second round, whoever writes it and whether it is streamed or not.

Greedy decoding can fall into a loop (arXiv 1904.09751) and go on to the token limit. Whatever stands once and once more may be meant;
what follows is held back as long as it says the same again, let go once something else comes, and dropped if nothing does.
"""

from __future__ import annotations

import re
from collections import defaultdict

_PARTS = re.compile(r"\s+|\S+")
# Words of a unit that is looked for at most, and of a run that is no chance ("ha ha ha" may be meant).
_LONGEST = 40
_RUN = 16
# Rounds after which a run is a circle.
_ROUNDS = 4


class Circles:
    """Takes a text piece by piece and holds back what repeats itself.

    Args:
        answer: What is corrected: what goes round in it, too, is a copy.
    """

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._words: list[str] = []
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        self._last = ""  # the beginning of a word that may go on
        self._unit = 0  # words of the unit that is repeated; 0: nothing is held back
        self._first = 0  # the word that its first round begins with
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return what can be shown."""
        out = ""
        for part in _PARTS.findall(piece):
            if not part.isspace():
                self._last += part
            elif self._last:
                self._places[self._last].append(len(self._words))
                self._words.append(self._last)
                self._last = ""
            self._held += part
            if not self._goes_on():
                self._find()
                waits = len(part) if self._unit else 0  # how much white space there is is not known yet
                ready = len(self._held) - waits
                out, self._held = out + self._held[:ready], self._held[ready:]
        return out

    @property
    def closed(self) -> bool:
        """Whether all that is held back is rounds of a circle."""
        words = self._words[self._first :]
        if not self._unit or len(words) + bool(self._last) < max(_RUN, _ROUNDS * self._unit):
            return False
        rounds = " ".join(words[: _ROUNDS * self._unit])
        return rounds.casefold() not in " ".join(self._answer.split()).casefold()

    def end(self) -> str:
        """The text is over: return what was held back, if it is no circle."""
        held, self._held = self._held, ""
        return "" if self.closed else held

    def _goes_on(self) -> bool:
        """Whether the text so far is another round of the unit."""
        if not self._unit:
            return False
        words, unit = self._words, self._unit
        same = words[-1] == words[-1 - unit]  # those before were looked at when they came
        return same and words[len(words) - unit].startswith(self._last)

    def _find(self) -> None:
        """Look whether the words so far end with two rounds of something, the shortest one first."""
        words, self._unit = self._words, 0
        if self._last or not words:
            return
        for place in reversed(self._places[words[-1]][:-1]):
            unit = len(words) - 1 - place
            if unit > _LONGEST:
                return
            if words[-unit:] == words[-2 * unit : -unit]:
                self._unit, self._first = unit, len(words) - 2 * unit
                return
