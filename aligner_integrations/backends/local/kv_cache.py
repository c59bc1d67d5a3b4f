"""The tensors of a batch on its way through the model, pass by pass: the cache, and which of its slots count.

A batch goes through as one rectangle. Where one row accepts more than another, the rejected tokens stay in the cache
as holes, which the attention mask hides; for a single row they are cropped. What is passed: `speculative.py`,
`scoring.py` and `prefill.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from aligner_integrations.backends.local.growing import GrowingLayer
from aligner_integrations.backends.local.prefix_cache import NOTHING, Prefix


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


class Rows:
    """A batch on its way.

    Args:
        model: The model.
        starts: For each row what it goes on from, and how many tokens of that.

    Attributes:
        cache: The model's cache.
        lengths: Tokens of each row that count, which is the position of its next one.
        hidden_states: Of the last pass, if asked for: for each layer, shape (rows, longest draft + 1, hidden), as for logits.
    """

    def __init__(self, model: Any, starts: Sequence[tuple[Prefix, int]] = ((NOTHING, 0),)) -> None:
        self.model = model
        self.lengths = [length for _, length in starts]
        self.hidden_states: tuple[torch.Tensor, ...] = ()
        self._drafted = 0  # slots at the end whose tokens are not yet accepted or rejected
        self._floor = 0
        width = max(self.lengths)
        # (rows, slots); False: padding, or a rejected token
        self._counts = torch.tensor([[i >= width - n for i in range(width)] for n in self.lengths], dtype=torch.bool)
        if width and len(starts) == 1:
            ((prefix, length),) = starts
            self.cache = prefix.start(length)
            self._floor = prefix.floor if length == len(prefix.tokens) else self._cropped_floor()
        else:
            self.cache = new_cache(model)
            if width:
                self._assemble(starts, width)

    @property
    def plain(self) -> bool:
        """Whether all layers keep all tokens, so that rows may differ in theirs."""
        return all(type(layer) in (DynamicLayer, GrowingLayer) for layer in self.cache.layers)

    def grow_in_place(self) -> None:
        """Make the cache ready for many passes of few tokens."""
        self.cache.layers = [GrowingLayer(at) if type(at) is DynamicLayer else at for at in self.cache.layers]

    def forward(
        self, fresh: Sequence[list[int]], drafts: Sequence[list[int]], *, hidden_states: bool = False
    ) -> torch.Tensor:
        """Run each row's fresh tokens, then its draft.

        Returns:
            Logits after the last fresh token and after each drafted one, float32, shape (rows, longest draft + 1, words);
            without fresh tokens only the latter.
        """
        left, right = max(map(len, fresh)), max(map(len, drafts))
        ids, counts, positions = [], [], []
        for new, draft, length in zip(fresh, drafts, self.lengths, strict=True):
            before, after, real = left - len(new), right - len(draft), len(new) + len(draft)
            ids.append([0] * before + new + draft + [0] * after)
            counts.append([False] * before + [True] * real + [False] * after)
            positions.append([length + min(max(i - before, 0), real - 1) for i in range(left + right)])
        self._counts = torch.cat([self._counts, torch.tensor(counts)], 1)
        self.lengths = [length + len(new) for length, new in zip(self.lengths, fresh, strict=True)]
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
            output_hidden_states=hidden_states,
            **holes,
        )
        self.hidden_states = (
            tuple(states[:, max(left - 1, 0) :] for states in output.hidden_states) if hidden_states else ()
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
            self.lengths[row] += count
        self._drafted = 0
        self._floor = self._cropped_floor()
        if slots > 1.25 * max(self.lengths) + 64:
            self._close_holes()

    def accept_all(self) -> None:
        """Keep all drafted tokens of all rows, and forget nothing."""
        self.lengths = [length + self._drafted for length in self.lengths]
        self._drafted = 0

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(torch.tensor(rows, device=self.model.device))
        self._counts = self._counts[list(rows)]
        self.lengths = [self.lengths[row] for row in rows]

    def prefix(self, row: int, tokens: list[int], choices: Sequence[int] = (), first: int = 0) -> Prefix:
        """Return a row as something to go on from: `tokens` are all of its tokens that count, drafted ones included.

        It shares the memory of the batch, which must not go on.
        """
        if len(self.lengths) == 1:
            return Prefix(tokens, self.cache, list(choices), first, self._floor)
        cache = new_cache(self.model)
        slots: Any = self._counts[row].nonzero()[:, 0]
        if len(tokens) == int(slots[-1]) + 1 - int(slots[0]):  # no holes: nothing is copied
            slots = slice(int(slots[0]), int(slots[-1]) + 1)
        for layer, full in zip(cache.layers, self.cache.layers, strict=True):
            if full.is_initialized:
                _fill(layer, full.keys[row : row + 1, :, slots], full.values[row : row + 1, :, slots])
        return Prefix(tokens, cache, list(choices), first)

    def _assemble(self, starts: Sequence[tuple[Prefix, int]], width: int) -> None:
        """Make one cache of those of the rows, each with what is missing at its left."""
        longest = max(starts, key=lambda start: start[1])[0]
        for number, layer in enumerate(self.cache.layers):
            like = longest.cache.layers[number]
            if not like.is_initialized:  # layers that share another one's cache have none
                continue
            shape = (len(starts), like.keys.shape[1], width)
            keys = like.keys.new_zeros((*shape, like.keys.shape[3]))
            values = like.values.new_zeros((*shape, like.values.shape[3]))
            for row, (prefix, length) in enumerate(starts):
                if length:
                    keys[row, :, width - length :] = prefix.cache.layers[number].keys[0, :, :length]
                    values[row, :, width - length :] = prefix.cache.layers[number].values[0, :, :length]
            _fill(layer, keys, values)

    def _close_holes(self) -> None:
        """Move what counts to the end, row by row, so that holes do not pile up."""
        width = max(self.lengths)
        slots = torch.zeros((len(self.lengths), width), dtype=torch.long)
        counts = torch.zeros((len(self.lengths), width), dtype=torch.bool)
        for row, length in enumerate(self.lengths):
            slots[row, width - length :] = self._counts[row].nonzero()[:, 0]
            counts[row, width - length :] = True
        self._counts = counts
        for layer in self.cache.layers:
            if layer.is_initialized:
                chosen = slots.to(layer.keys.device)[:, None, :, None]
                layer.keys = layer.keys.take_along_dim(chosen, 2)
                layer.values = layer.values.take_along_dim(chosen, 2)

    def _cropped_floor(self) -> int:
        return 0 if self.plain else self._counts.shape[1]


@torch.inference_mode()
def read_on(model: Any, prefix: Prefix, length: int, tokens: list[int]) -> Prefix:
    """Run tokens through the model after the first `length` ones of a prefix; return all of that as a prefix."""
    rows = Rows(model, [(prefix, length)])
    rows.forward([tokens], [[]])
    return rows.prefix(0, prefix.tokens[:length] + tokens)


def _fill(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
