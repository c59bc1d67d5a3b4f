"""Lossless greedy decoding that drafts from the answer: the model verifies many tokens in one forward pass.

The tokens are those of greedy `generate`: a drafted token counts only where it is the model's own choice, and after the
first that is not, the model's choice takes its place. So drafts decide about time alone. They come from `drafting.py`.

A batch goes through the model as one rectangle. Where one row accepts more than another, the rejected tokens stay in
the cache as holes, which the attention mask hides; for a single row they are cropped.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from aligner_integrations.backends.drafting import Drafter, best_length
from aligner_integrations.backends.stopping import Stop

logger = logging.getLogger(__name__)

# Most drafted tokens in one pass, all rows together: bounds the memory of the logits.
_MOST_DRAFTED = 256
# Bytes of a cache that may wait for the next correction.
_MOST_WAITING = 256 * 2**20
_TRIAL_PROMPT, _TRIAL_DRAFT = 8, 32


@dataclass(frozen=True, slots=True)
class DraftSupport:
    """What drafting can do with a model on its device.

    Attributes:
        token_cost: Time for one token more in a forward pass, as a share of that of a pass of one token.
        batches: Whether rows of a batch may accept different numbers of tokens.
    """

    token_cost: float
    batches: bool


@dataclass(slots=True)
class Verified:
    """An answer that has gone through the model behind its prompt, for example to be scored.

    Attributes:
        prompt: Token ids of the prompt.
        answer: Token ids of the answer, without the end token.
        choices: The model's choice after the prompt and after each token of the answer.
        cache: The model's cache of prompt and answer, and of `extra` tokens after them.
        extra: Number of those.
    """

    prompt: list[int]
    answer: list[int]
    choices: list[int]
    cache: Any
    extra: int

    @property
    def light(self) -> bool:
        """Whether it is small enough to be kept for the correction that may follow."""
        tensors = [t for layer in self.cache.layers for t in (layer.keys, layer.values) if t is not None]
        return bool(sum(t.nbytes for t in tensors) <= _MOST_WAITING)


def new_cache(model: Any) -> Any:
    """Return an empty cache that can be cropped.

    Raises:
        ValueError: This model's cache cannot be cropped.
    """
    cache: Any = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not cache.is_croppable:
        raise ValueError("its cache cannot be cropped")
    cache.activate_past_recording()
    return cache


def find_support(model: Any, window: int | None) -> DraftSupport | None:
    """Try drafting on a model and measure its costs; None, with the reason logged, where plain `generate` has to do."""
    try:
        return _try(model, window)
    except Exception as error:  # noqa: BLE001 - a model may be unfit in any way, and generate still runs it
        logger.info("Corrections are decoded by plain generate, without drafts: %s.", error)
        return None


@torch.inference_mode()
def _try(model: Any, window: int | None) -> DraftSupport:
    if window is not None and window < 2 * (_TRIAL_PROMPT + _TRIAL_DRAFT):
        raise ValueError(f"its window of {window} tokens is too small")
    rows = _Rows(model, new_cache(model))
    size = model.get_input_embeddings().num_embeddings
    tokens = [(7919 * i + 1) % size for i in range(_TRIAL_PROMPT + _TRIAL_DRAFT)]
    prompt, draft = tokens[:_TRIAL_PROMPT], tokens[_TRIAL_PROMPT:]
    expected = rows.forward([prompt], [draft])[0, 1]
    rows.settle([0])
    # A cache that is cropped in name only would give wrong text without a word.
    off = float((rows.forward([draft[:1]], [[]])[0, 0] - expected).norm() / expected.norm())
    if not off < 0.05:
        raise ValueError(f"its numbers after a crop are off by {off:.0%}")
    rows.settle([0])
    long: list[float] = []
    short: list[float] = []
    # Slow models are measured once, fast ones often enough for a steady figure.
    while len(long) < 5 and sum(short) + sum(long) < 0.3:
        started = time.perf_counter()
        rows.forward([draft[:1]], [[]])[0, 0, 0].item()  # waits for a device that runs on its own
        rows.settle([0])
        between = time.perf_counter()
        rows.forward([draft[:1]], [draft[1:]])[0, 0, 0].item()
        rows.settle([0])
        short.append(between - started)
        long.append(time.perf_counter() - between)
    extra = (min(long) / min(short) - 1) / (len(draft) - 1)
    # A power of two, so that a busy machine hardly ever changes where passes begin, and with it the last bits of numbers.
    power = next((n for n in range(10) if extra >= 0.75 * 2.0**-n), 10)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's own forward takes anything
    plain = all(type(layer) is DynamicLayer for layer in rows.cache.layers)
    return DraftSupport(2.0**-power, plain and "position_ids" in inspect.signature(inner.forward).parameters)


class _Rows:
    """The tensors of a batch on its way through the model: the cache, and which of its slots count.

    Args:
        model: The model.
        cache: Its cache.
        count: Number of rows.
    """

    def __init__(self, model: Any, cache: Any, count: int = 1) -> None:
        self.model = model
        self.cache = cache
        self._counts = torch.ones((count, 0), dtype=torch.bool)  # (rows, slots); False: padding, or a rejected token
        self._lengths = [0] * count  # tokens of each row that count, so the position of its next one
        self._drafted = 0  # slots at the end whose tokens are not yet accepted or rejected

    def adopt(self, verified: Verified) -> None:
        """Start from what is in the cache already: the answer is the draft."""
        self._lengths = [len(verified.prompt)]
        self._drafted = len(verified.answer) + verified.extra
        self._counts = torch.ones((1, self._lengths[0] + self._drafted), dtype=torch.bool)

    def forward(self, fresh: Sequence[list[int]], drafts: Sequence[list[int]]) -> torch.Tensor:
        """Run each row's fresh tokens, then its draft.

        Returns:
            Logits after the last fresh token and after each drafted one, float32, shape (rows, longest draft + 1, words).
        """
        left, right = max(map(len, fresh)), max(map(len, drafts))
        ids, counts, positions = [], [], []
        for new, draft, length in zip(fresh, drafts, self._lengths, strict=True):
            before, after, real = left - len(new), right - len(draft), len(new) + len(draft)
            ids.append([0] * before + new + draft + [0] * after)
            counts.append([False] * before + [True] * real + [False] * after)
            positions.append([length + min(max(i - before, 0), real - 1) for i in range(left + right)])
        self._counts = torch.cat([self._counts, torch.tensor(counts)], 1)
        self._lengths = [length + len(new) for length, new in zip(self._lengths, fresh, strict=True)]
        self._drafted = right
        device = self.model.device
        holes: dict[str, torch.Tensor] = {}
        if not self._counts.all():  # without a mask, attention is faster
            holes["attention_mask"] = self._counts.long().to(device)
            holes["position_ids"] = torch.tensor(positions, device=device)
        output = self.model(
            input_ids=torch.tensor(ids, device=device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=right + 1,
            **holes,
        )
        # generate, too, compares float32 numbers.
        return torch.as_tensor(output.logits).float()

    def settle(self, accepted: Sequence[int]) -> None:
        """Keep so many drafted tokens of each row."""
        longest = max(accepted)
        # Also a crop of nothing is needed: it lets a sliding window forget.
        self.cache.crop(longest - self._drafted)
        self._counts = self._counts[:, : self._counts.shape[1] - self._drafted + longest]
        slots = self._counts.shape[1]
        for row, count in enumerate(accepted):
            self._counts[row, slots - longest + count :] = False
            self._lengths[row] += count
        self._drafted = 0
        if slots > 1.25 * max(self._lengths) + 64:
            self._close_holes()

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(torch.tensor(rows, device=self.model.device))
        self._counts = self._counts[list(rows)]
        self._lengths = [self._lengths[row] for row in rows]

    def _close_holes(self) -> None:
        """Move what counts to the end, row by row, so that holes do not pile up."""
        width = max(self._lengths)
        slots = torch.zeros((len(self._lengths), width), dtype=torch.long)
        counts = torch.zeros((len(self._lengths), width), dtype=torch.bool)
        for row, length in enumerate(self._lengths):
            slots[row, width - length :] = self._counts[row].nonzero()[:, 0]
            counts[row, width - length :] = True
        self._counts = counts
        for layer in self.cache.layers:
            if layer.is_initialized:  # layers that share another one's cache have none
                chosen = slots.to(layer.keys.device)[:, None, :, None]
                layer.keys = layer.keys.take_along_dim(chosen, 2)
                layer.values = layer.values.take_along_dim(chosen, 2)


@dataclass(slots=True)
class _Row:
    """One correction on its way."""

    drafter: Drafter
    limit: int
    stop: Stop
    fresh: list[int]
    written: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or len(self.written) >= self.limit or self.stop.is_set()

    def take(self, draft: list[int], choices: list[int], stop_ids: Sequence[int]) -> tuple[int, list[int]]:
        """Accept what is the model's choice; return how much of the draft that is, and the new tokens of the text."""
        accepted = 0
        while accepted < len(draft) and draft[accepted] == choices[accepted]:
            accepted += 1
        tokens = [*draft[:accepted], choices[accepted]]
        self.drafter.take(tokens, len(draft))
        self.fresh = tokens[-1:]
        end = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        self.ended = end is not None
        self.written += tokens[:end]
        return accepted, tokens[:end]


def decode_with_drafts(
    model: Any,
    stop_ids: Sequence[int],
    token_cost: float,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    limits: Sequence[int],
    stops: Sequence[Stop],
    on_tokens: Callable[[list[int]], None] | None = None,
    verified: Verified | None = None,
) -> list[tuple[list[int], bool]]:
    """Continue a batch of prompts greedily.

    Args:
        model: A causal language model for which `find_support` found support, for batches if there are several rows.
        stop_ids: Token ids that end a completion.
        token_cost: See `DraftSupport`.
        prompts: Token ids of each prompt.
        answers: Token ids of each answer as a completion, without the end token.
        limits: Longest continuation of each, in tokens.
        stops: When each is given up.
        on_tokens: Called with the tokens of each pass, without the end token; for a batch of one.
        verified: The same prompt and answer, already through the model; for a batch of one. Its cache is used up.

    Returns:
        For each prompt the new token ids without the end token, and whether it ended by itself.
    """
    rows_of = zip(prompts, answers, limits, stops, strict=True)
    texts = [_Row(Drafter(p, a), n, stop, p) for p, a, n, stop in rows_of]
    with torch.inference_mode():
        rows = _Rows(model, new_cache(model) if verified is None else verified.cache, len(texts))
        alive = texts
        while alive:
            most = len(answers[0]) if verified is not None else _MOST_DRAFTED // len(alive)
            guesses = [row.drafter.propose(max(0, min(most, row.limit - len(row.written) - 1))) for row in alive]
            if verified is not None:
                rows.adopt(verified)
                drafts, choices = [guesses[0].tokens], [verified.choices]
                verified = None
            else:
                length = best_length(guesses, token_cost)
                drafts = [guess.tokens[:length] for guess in guesses]
                choices = rows.forward([row.fresh for row in alive], drafts).argmax(-1).tolist()
            accepted = []
            for row, draft, chosen in zip(alive, drafts, choices, strict=True):
                count, new = row.take(draft, chosen, stop_ids)
                accepted.append(count)
                if on_tokens is not None and new:
                    on_tokens(new)
            rows.settle(accepted)
            going = [i for i, row in enumerate(alive) if not row.done]
            if 0 < len(going) < len(alive):
                rows.select(going)
            alive = [alive[i] for i in going]
    return [(row.written, row.ended) for row in texts]
