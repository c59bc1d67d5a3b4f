"""Taking back changes at words that the aligner's own probe does not object to (`edits="marked"`)."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aligner_integrations.backends.score import Score

_WORDS = re.compile(r"\s+|[^\s]+")


def keep_unmarked(answer: str, correction: str, score: Score, threshold: float, *, neighbours: int = 1) -> str:
    """Return the correction with every change undone that touches no marked word.

    A change is a run of replaced, deleted or inserted words. It stays if the probe marks a token of the answer inside
    it, or within `neighbours` words of it, because a human's rewrite of a rude word often moves the words beside it.

    Args:
        answer: The text that was scored.
        correction: What the aligner made of it.
        score: Score of the answer, with one mark a token.
        threshold: A token above it is marked.
        neighbours: How many words beside a change count as part of it.
    """
    marked = [(t.start, t.end) for t in score.marked(threshold)]
    spans = [(m.start(), m.end()) for m in _WORDS.finditer(answer)]
    before = [answer[a:b] for a, b in spans]
    after = _WORDS.findall(correction)
    pieces: list[str] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        # Words and white space alternate, so a neighbouring word is two items away.
        low, high = max(0, i1 - 2 * neighbours), min(len(spans), i2 + 2 * neighbours)
        start = spans[low][0] if low < len(spans) else len(answer)
        end = spans[high - 1][1] if high else 0
        touches = any((a < end and b > start) or a == b == len(answer) == end for a, b in marked)
        pieces += after[j1:j2] if tag == "equal" or touches else before[i1:i2]
    return "".join(pieces)
