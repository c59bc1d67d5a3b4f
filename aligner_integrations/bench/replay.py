"""How many forward passes recorded corrections take with drafts: what drafting does for an aligner that is not at hand.

Nothing is run but the drafter, so the corrections of any aligner can be replayed, with any tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_integrations.backends.local.drafter import Drafter, best_length
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import read_jsonl

_END = -1  # stands for the end token, which no draft holds


@dataclass(frozen=True, slots=True)
class Replay:
    """What drafting does with recorded corrections.

    Attributes:
        tokens: Tokens of the corrections, end tokens included.
        passes: Forward passes they take; without drafts it would be one a token.
        fed: Tokens that go through the model, prompts aside.
    """

    tokens: int
    passes: int
    fed: int

    @property
    def tokens_per_pass(self) -> float:
        """Tokens a forward pass gives."""
        return self.tokens / self.passes

    @property
    def fed_per_token(self) -> float:
        """Tokens that go through the model for each token it writes."""
        return self.fed / self.tokens

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return {
            **dataclasses.asdict(self),
            "tokens_per_pass": self.tokens_per_pass,
            "fed_per_token": self.fed_per_token,
        }


def replay(triples: Sequence[tuple[list[int], list[int], list[int]]], *, token_cost: float = 1 / 16) -> Replay:
    """Count the forward passes of recorded corrections, as if the aligner that wrote them were decoded with drafts.

    Args:
        triples: Token ids of the question, of the answer, and of the correction with its end token.
        token_cost: Time for one token more in a forward pass, as a share of that of a pass of one token.
    """
    tokens = passes = fed = 0
    for question, answer, correction in triples:
        drafter = Drafter(question, answer)
        at = 0
        while at < len(correction):
            guess = drafter.propose(len(correction) - at - 1)
            draft = guess.tokens[: best_length([guess], token_cost)]
            right = 0
            while right < len(draft) and draft[right] == correction[at + right]:
                right += 1
            drafter.take(correction[at : at + right + 1], len(draft))
            fed += len(draft) + (at > 0)  # what comes before the first token is the prompt
            passes += 1
            at += right + 1
        tokens += len(correction)
    return Replay(tokens, passes, fed)


def read_recorded(path: Path, encode: Callable[[str], list[int]]) -> list[tuple[list[int], list[int], list[int]]]:
    """Read recorded corrections, JSON Lines (.gz too) with `question`, `answer` and `correction`, as `replay` takes them.

    Args:
        path: The file.
        encode: Returns the token ids of a text, without special tokens.

    Raises:
        ConfigurationError: The file cannot be read, holds no rows, or a row lacks one of the three.
    """
    triples = []
    for number, row in read_jsonl(path):
        texts = [row.get(key) for key in ("question", "answer", "correction")]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(f"{path}, line {number}: it needs a question, an answer and a correction.")
        question, answer, correction = (encode(str(text).strip()) for text in texts)
        triples.append((question, answer, [*correction, _END]))
    if not triples:
        raise ConfigurationError(f"{path} holds no rows.")
    return triples
