"""How an aligner judges an answer: token by token, and as a whole. What follows from it is decided in `policy.py`."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aligner_integrations.heat import heat

RUDE = "rude"
"""What a gate by words objects to: each token has a mark, and where it stands is known."""

WHOLE = ("hateful", "harmful")
"""What a gate can object to in an answer as a whole: that it insults, threatens or hates, with whatever words; that it helps with harm."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How the aligner judges one token of an answer, were it to repeat the answer to the letter.

    Attributes:
        text: The token's text.
        start: Its first character in the answer.
        end: One past its last character in the answer.
        logprob: Log-probability of the token in nats.
        gap: By how much the aligner prefers another token, in nats; 0 if this one is its first choice.
        mark: The gate probe's logit that this token wants correction; None without a probe.
    """

    text: str
    start: int
    end: int
    logprob: float
    gap: float
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How the aligner judges a whole answer, in one forward pass.

    Attributes:
        tokens: Each token of the answer; the last one is the end token, with empty text.
        total: Sum of the log-probabilities in nats.
        mean: Mean log-probability in nats a token.
        minimum: Smallest log-probability in nats.
        max_gap: Largest gap in nats; 0 means the aligner would repeat the answer to the letter.
        gate: The probe's score of the answer, its largest mark (a logit); None without a probe.
        objections: Of `WHOLE`, what the gate knows -> its logit for the answer, question included; of a whole answer only.
    """

    tokens: tuple[TokenScore, ...]
    total: float
    mean: float
    minimum: float
    max_gap: float
    gate: float | None = None
    objections: Mapping[str, float] = field(default_factory=dict)

    @property
    def judgement(self) -> float:
        """What a gate compares with its threshold: the probe's score, or without a probe the largest gap."""
        return self.max_gap if self.gate is None else self.gate

    def marked(self, threshold: float) -> tuple[TokenScore, ...]:
        """Return the tokens the probe objects to, or without a probe those whose gap exceeds the threshold."""
        return tuple(t for t in self.tokens if (t.gap if t.mark is None else t.mark) > threshold)

    def to_html(self) -> str:
        """Render the answer as escaped HTML, each word the redder the more the aligner objects to it.

        With a probe, as red as it is sure that the word wants correction; without, as the aligner is sure of another token.
        """
        return heat(
            (t.start, t.text, 1 - math.exp(-t.gap) if t.mark is None else (1 + math.tanh(t.mark / 2)) / 2)
            for t in self.tokens
        )

    def _repr_html_(self) -> str:
        """Shown by notebooks: the numbers, and where the aligner objects."""
        return (
            f'<div style="opacity: 0.7; font-size: smaller">{html.escape(self._told())}</div>'
            f'<div style="white-space: pre-wrap">{self.to_html()}</div>'
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shown by IPython in a terminal: the numbers."""
        printer.text(self._told())

    def _told(self) -> str:
        return ", ".join(
            f"{name} {number:.1f}" for name, number in {"score": self.judgement, **self.objections}.items()
        )

    def objects(self, thresholds: Mapping[str, float]) -> tuple[str, ...]:
        """Return what the gate objects to in the answer as a whole, given a threshold for each of these kinds."""
        return tuple(kind for kind, most in thresholds.items() if self.objections.get(kind, -math.inf) > most)


Keep = Callable[[Score, bool], bool | None]
"""(score of the answer's tokens read so far, whether that is all of them) -> whether the answer is kept; None: not known yet,
which is no reply to a whole score."""
