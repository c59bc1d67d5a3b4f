"""Q-A-C triples: encoding them, and laying out batches in training order.

What lives elsewhere: reading them (`triples.py`), which rows the embedded aligner learns from (`embedded/data.py`), the training itself (`sft.py`).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from aligner_integrations.backends.encoding import encode_completion, encode_prompt
from aligner_integrations.correction import diff_words
from aligner_integrations.errors import ConfigurationError, InvalidTextError
from aligner_integrations.guard import LARGE, is_guarded
from aligner_integrations.refusals import is_refusal
from aligner_integrations.triples import Triple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aligner_integrations.templates import Template

_Row = TypeVar("_Row")


class EncodedTriple(NamedTuple):
    """Token ids of one triple: `prompt` carries no loss, `completion` (with its end token) does."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.completion)


def edits_of(triples: Sequence[Triple]) -> Literal["minimal", "rewriting"]:
    """Return how an aligner that has learnt from these corrects: minimal edits if most corrections copy most of the answer.

    The median of what is copied is 74% in ParaDetox, and 22 to 27% in what Aligner-2B made of AlpacaEval's answers. One that has
    learnt to leave whole parts out would be taken for one that loses them, so it rewrites, too.
    """
    corrected = [t for t in triples if t.answer != t.correction]
    sample = corrected[:: max(1, len(corrected) // 500)]
    changed = [diff_words(t.answer, t.correction).changed_share for t in sample]
    gone = [
        1 - len(t.correction) / len(t.answer) for t in sample if is_guarded(t.answer) and not is_refusal(t.correction)
    ]
    if not changed or statistics.median(changed) >= 0.5 or (gone and statistics.median(gone) > LARGE):
        return "rewriting"
    return "minimal"


@dataclass(frozen=True, slots=True)
class EncodedTriples:
    """Encoded rows and how many were refused because they are longer than the window."""

    rows: list[EncodedTriple]
    refused: int


def identity_pairs(triples: Iterable[Triple]) -> list[Triple]:
    """Q-A-A rows from the answers of Q-A-C rows, for the warm-up stage (paper, section 3)."""
    return [Triple(t.question, t.answer, t.answer) for t in triples]


def encode_triples(
    triples: Sequence[Triple], tokenizer: PreTrainedTokenizerBase, template: Template, max_length: int
) -> EncodedTriples:
    """Encode triples; a row of more than `max_length` tokens is refused and counted, never truncated.

    Raises:
        InvalidTextError: A row cannot be encoded (lone surrogates).
        ConfigurationError: The tokenizer has no end token, or a correction is empty.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("The base model's tokenizer has no end token, so a correction would never end.")
    rows, refused = [], 0
    for number, triple in enumerate(triples):
        if not triple.correction.strip():
            raise ConfigurationError(f"Row {number} has an empty correction; an aligner must not learn to say nothing.")
        try:
            "".join(triple[:3]).encode()  # a tokenizer would say no more than that this is no text
        except UnicodeEncodeError as error:
            raise InvalidTextError(f"Row {number} cannot be encoded: {error}") from error
        prompt = encode_prompt(tokenizer, template.render(triple.question, triple.answer))
        completion = encode_completion(tokenizer, template.completion_prefix, triple.correction)
        if triple.end_only:
            prompt, completion = prompt + completion, []
        row = EncodedTriple(prompt, [*completion, tokenizer.eos_token_id])
        if len(row) > max_length:
            refused += 1
        else:
            rows.append(row)
    return EncodedTriples(rows, refused)


def batches_by_rows(rows: Sequence[EncodedTriple], size: int, rng: random.Random) -> list[list[EncodedTriple]]:
    """Shuffle rows into batches of `size` rows each."""
    order = list(rows)
    rng.shuffle(order)
    return [order[i : i + size] for i in range(0, len(order), size)]


def batches_by_tokens(rows: Sequence[EncodedTriple], tokens: int, rng: random.Random) -> list[list[EncodedTriple]]:
    """Group rows of like length into batches of at most `tokens` padded tokens each, in shuffled order.

    Rows of 50 and of 900 tokens in one training make batches of fixed size either tiny or huge; on a CPU that is most
    of the time spent. Ties in length are broken at random, so that batches differ between passes.
    """
    batches = grouped(sorted(rows, key=lambda row: (len(row), rng.random())), len, tokens)
    rng.shuffle(batches)
    return batches


def grouped(rows: Iterable[_Row], length: Callable[[_Row], int], tokens: int) -> list[list[_Row]]:
    """Group rows, shortest first, into batches of at most `tokens` padded tokens each; a longer row is one alone."""
    batches: list[list[_Row]] = []
    for row in rows:
        # Ascending order: the newest row is the widest, so it sets the padded width of the batch.
        if batches and length(row) * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
