"""What one check of a server came to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["good", "wrong", "missing", "unknown"]
"""good: as it should be. wrong: corrections come out wrong or not at all. missing: they are right, but something could be
better. unknown: it could not be seen."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to.

    Attributes:
        check: What was looked at.
        verdict: See `Verdict`.
        says: What was found, in a sentence.
        mend: What to do about it, if there is something.
    """

    check: str
    verdict: Verdict
    says: str
    mend: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)
