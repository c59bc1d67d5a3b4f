"""From prompt tokens to completion tokens: the one place where an aligner's text is generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from aligner_integrations.backends.weights import Weights


class _RowLimits(StoppingCriteria):
    """Ends a row at its own limit, and all rows when the caller has gone."""

    def __init__(self, prompt_width: int, limits: Sequence[int], stop: threading.Event) -> None:
        self.prompt_width = prompt_width
        self.limits = torch.tensor(list(limits))
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        written = input_ids.shape[1] - self.prompt_width
        done = (written >= self.limits) | self.stop.is_set()
        return done.to(input_ids.device)


class _Tokens(BaseStreamer):
    """Hands each new token id to a function; the first thing generate sends is the prompt."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self.on_token = on_token
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        for token in value.flatten().tolist():
            self.on_token(token)

    def end(self) -> None:
        """Nothing to flush."""


def decode(
    weights: Weights,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    stop: threading.Event,
    options: Mapping[str, Any],
    on_token: Callable[[int], None] | None = None,
) -> list[tuple[list[int], bool]]:
    """Continue a batch of prompts.

    Args:
        weights: The loaded aligner.
        prompts: Token ids of each prompt.
        limits: Longest continuation of each, in tokens.
        stop: Set by the caller to end early.
        options: Arguments of `GenerationConfig`; greedy without any.
        on_token: Called with each token id as it comes; for a batch of one.

    Returns:
        For each prompt the new token ids without the end token, and whether it ended by itself.
    """
    width = max(len(p) for p in prompts)
    pad = weights.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=weights.model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=weights.model.device)
    with torch.inference_mode():
        output = weights.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(limits),
            stopping_criteria=StoppingCriteriaList([_RowLimits(width, limits, stop)]),
            streamer=None if on_token is None else _Tokens(on_token),
            **{"do_sample": False, **options},
        )
    results = []
    for row, limit in zip(output[:, width:].tolist(), limits, strict=True):
        end = next((i for i, token in enumerate(row[:limit]) if token in weights.stop_ids), None)
        results.append((row[:limit], False) if end is None else (row[:end], True))
    return results
