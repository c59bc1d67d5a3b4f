"""From prompt tokens to completion tokens: the one place where an aligner's text is generated.

Text is drafted from the answer (`speculative.py`), which changes nothing but the time; what cannot be is left to
transformers' `generate`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from aligner_integrations.backends.deadline import Stop
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.prefix_cache import Prefixes
from aligner_integrations.backends.local.speculative import Pick, decode_with_drafts

logger = logging.getLogger(__name__)


class _RowLimits(StoppingCriteria):
    """Ends a row at its own limit, or when it is given up."""

    def __init__(self, prompt_width: int, limits: Sequence[int], stops: Sequence[Stop]) -> None:
        self.prompt_width = prompt_width
        self.limits = torch.tensor(list(limits))
        self.stops = stops

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        written = input_ids.shape[1] - self.prompt_width
        for row, stop in enumerate(self.stops):
            if stop.is_set():  # what generate fills the row up with from here on is no text
                self.limits[row] = min(int(self.limits[row]), written)
        return (written >= self.limits).to(input_ids.device)


class _Tokens(BaseStreamer):
    """Hands new token ids to a function, without end tokens; the first thing generate sends is the prompt."""

    def __init__(self, on_tokens: Callable[[list[int]], None], stop_ids: Sequence[int]) -> None:
        self.on_tokens = on_tokens
        self.stop_ids = stop_ids
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        if new := [token for token in value.flatten().tolist() if token not in self.stop_ids]:
            self.on_tokens(new)

    def end(self) -> None:
        """Nothing to flush."""


def decode(
    weights: Weights,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]] | None,
    limits: Sequence[int],
    stops: Sequence[Stop],
    options: Mapping[str, Any],
    on_tokens: Callable[[list[int]], None] | None = None,
    *,
    prefixes: Prefixes | None = None,
) -> list[tuple[list[int], bool]]:
    """Continue a batch of prompts in the fastest way that gives the tokens of `generate`. Call it under the weights' lock.

    Args:
        weights: The loaded aligner.
        prompts: Token ids of each prompt.
        answers: Token ids of each answer as a completion, without the end token: what drafts are copied from. None: no drafts.
        limits: Longest continuation of each, in tokens.
        stops: When each is given up.
        options: Arguments of `GenerationConfig`; greedy without any.
        on_tokens: Called with new token ids as they come, without the end token; for a batch of one.
        prefixes: What went through the model before; by default the weights' own.

    Returns:
        For each prompt the new token ids without the end token, and whether it ended by itself.
    """
    support = weights.drafts
    if answers is not None and support is not None and (len(prompts) == 1 or support.batches):
        if options.get("do_sample") and options.keys() <= _SAMPLING:
            pick: Pick | None = _sampler(options)
        elif options:
            logger.debug("Plain generate, without drafts: they cannot be combined with all of %s.", dict(options))
            return generate(weights, prompts, limits, stops, options, on_tokens)
        else:
            pick = None
        return decode_with_drafts(
            weights.model,
            support,
            weights.stop_ids,
            prompts,
            answers,
            limits,
            stops,
            weights.prefixes if prefixes is None else prefixes,
            pick=pick,
            on_tokens=on_tokens,
        )
    return generate(weights, prompts, limits, stops, options, on_tokens)


# What generate does to logits before it samples and that depends on nothing else, in its order.
_SAMPLING = {"do_sample", "temperature", "top_k", "top_p", "min_p"}
_TOP_K = 50  # generate's own, unless it is told otherwise


def _sampler(options: Mapping[str, Any]) -> Pick:
    """Return what draws tokens as `generate` does with these options."""
    warpers = LogitsProcessorList()
    if (temperature := options.get("temperature")) is not None and temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k := options.get("top_k", _TOP_K):
        warpers.append(TopKLogitsWarper(top_k))
    if (top_p := options.get("top_p")) is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if (min_p := options.get("min_p")) is not None:
        warpers.append(MinPLogitsWarper(min_p))

    def pick(logits: torch.Tensor) -> list[list[int]]:
        places = logits.flatten(0, 1)
        nothing: Any = None  # none of these looks at the tokens before
        drawn = torch.multinomial(warpers(nothing, places).softmax(-1), 1)
        chosen: list[list[int]] = drawn.view(logits.shape[:2]).tolist()
        return chosen

    return pick


def generate(
    weights: Weights,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    stops: Sequence[Stop],
    options: Mapping[str, Any],
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[tuple[list[int], bool]]:
    """Continue a batch of prompts with transformers' `generate`; see `decode`."""
    ids, mask = weights.padded(prompts)
    width = ids.shape[1]
    ends = _RowLimits(width, limits, stops)
    with torch.inference_mode():
        output = weights.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(limits),
            stopping_criteria=StoppingCriteriaList([ends]),
            streamer=None if on_tokens is None else _Tokens(on_tokens, weights.stop_ids),
            **{"do_sample": False, **options},
        )
    results = []
    for row, limit in zip(output[:, width:].tolist(), ends.limits.tolist(), strict=True):
        end = next((i for i, token in enumerate(row[:limit]) if token in weights.stop_ids), None)
        results.append((row[:limit], False) if end is None else (row[:end], True))
    return results
