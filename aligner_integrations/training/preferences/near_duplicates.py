"""Texts that say nearly the same: two in which most runs of four words are those of the other (Broder's resemblance)."""

from __future__ import annotations

import re
import zlib

_WORDS = re.compile(r"\w+")
_RUN = 4
_LEAST = 8


class NearDuplicates:
    """Texts seen so far.

    Two texts are compared if they share one of their eight least hashes, as almost all near duplicates do, so that not each has to
    be compared with each.

    Args:
        resemblance: From which share of common runs on, of all that either has, two texts are the same.
    """

    def __init__(self, resemblance: float = 0.8) -> None:
        self._resemblance = resemblance
        self._seen: list[frozenset[int]] = []
        self._by_hash: dict[int, list[int]] = {}

    def add(self, text: str) -> bool:
        """Add a text; whether it is a near duplicate of one that was added before, and so is not added."""
        runs = _runs(text)
        least = sorted(runs)[:_LEAST]
        candidates = {number for key in least for number in self._by_hash.get(key, ())}
        if any(_resemblance(runs, self._seen[number]) >= self._resemblance for number in candidates):
            return True
        for key in least:
            self._by_hash.setdefault(key, []).append(len(self._seen))
        self._seen.append(runs)
        return False


def _runs(text: str) -> frozenset[int]:
    words = _WORDS.findall(text.casefold()) or [text]
    runs = [" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))]
    return frozenset(zlib.crc32(run.encode("utf-8", "surrogatepass")) for run in runs)


def _resemblance(one: frozenset[int], other: frozenset[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
