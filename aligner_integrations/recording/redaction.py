"""What of a correction's texts may be kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from aligner_integrations.correction import Correction

Redact = Callable[[str], str]
"""A text -> the text as it may be kept."""


def redacted(correction: Correction, redact: Redact) -> Correction:
    """Return a correction with each of its texts redacted, equal ones alike.

    Raises:
        TypeError: `redact` returned no text.
    """
    known: dict[str, str] = {}

    def clean(text: str) -> str:
        if text not in known:
            known[text] = redact(text)
            if not isinstance(known[text], str):
                raise TypeError("redact returned no text")
        return known[text]

    reason = correction.reason
    # The message of an error may quote what it failed on.
    reason = clean(reason) if reason and correction.outcome == "failed" else reason
    return dataclasses.replace(
        correction,
        question=clean(correction.question),
        answer=clean(correction.answer),
        text=clean(correction.text),
        reason=reason,
    )
