"""Answers that LlamaIndex puts together from several (`response_mode="accumulate"`), taken apart and joined again.

Each of them answers the question by itself. An aligner that reads them as one would rewrite the list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aligner_integrations.correction import Correction, Outcome, Usage

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


def join(question: str, answer: str, headings: Sequence[str], corrections: Sequence[Correction]) -> Correction:
    """Return the corrections of all answers in a list as the correction of the list."""
    text = "".join(heading + correction.text for heading, correction in zip(headings, corrections, strict=True))
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
