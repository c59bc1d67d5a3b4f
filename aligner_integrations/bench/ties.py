"""Where two ways of decoding part: whether the model's two best choices were a tie there, which rounding decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aligner_integrations.backends.encoding import encode_completion, encode_prompt
from aligner_integrations.backends.local.backend import LocalBackend

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

TIE = 1e-4
"""Two float32 logits that are no further apart than this may swap when numbers are summed in another order."""


def gap_where_they_part(aligner: Aligner, question: str, answer: str, first: str, second: str) -> float | None:
    """Return how far apart the model's logits are for the two tokens with which two corrections part.

    The texts are encoded anew: where the model spelled one with other tokens, the distance is that of tokens it did not
    choose, and larger than the one that decided.

    Args:
        aligner: A local one.
        question: The question.
        answer: The answer that was corrected.
        first: One correction.
        second: The other one.

    Returns:
        The distance in logits; None if the aligner is not local, or the texts are the same tokens.
    """
    if not isinstance(aligner.backend, LocalBackend):
        return None
    weights, template = aligner.backend.weights, aligner.template
    one, other = (
        [*encode_completion(weights.tokenizer, template.completion_prefix, text), weights.stop_ids[0]]
        for text in (first, second)
    )
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if same is None:
        return None
    prompt = encode_prompt(weights.tokenizer, template.render(question, answer))
    ids = torch.tensor([prompt + one[:same]], device=weights.model.device)
    with weights.lock, torch.inference_mode():
        logits = weights.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
    return abs(float(logits[one[same]] - logits[other[same]]))
