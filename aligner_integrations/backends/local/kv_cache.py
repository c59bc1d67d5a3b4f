"""The tensors of a batch on its way through the model, pass by pass: the cache, and which of its slots count.

A batch goes through as one rectangle. Where one row accepts more than another, the rejected tokens stay in the cache
as holes, which the attention mask hides; for a single row they are cropped. Rows on their way through many passes have a
cache with room to grow: transformers' own makes longer tensors at every pass, which leaves what others share as it is,
and was a tenth of the time of decoding a batch, and a thirtieth of that of one long row.

What lives elsewhere: what is passed (`speculative.py`, `scoring.py`, `prefill.py`), and what is kept to be gone on from
(`prefix_cache.py`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

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
            ((prefix, length),) = starts  # alone, a row needs no padding, and shares the prefix's memory
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
            # All fresh tokens end in one column, and all drafts begin in the next, so one slice of the logits serves all
            # rows. Padding is hidden, but takes a neighbour's position: a model with learnt ones has none beyond its window.
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
            use_cache=True,
            logits_to_keep=right + 1,
            output_hidden_states=hidden_states,
            **{cache_argument(self.model): self.cache},
            **holes,
        )
        self.hidden_states = (
            tuple(states[:, max(left - 1, 0) :] for states in output.hidden_states) if hidden_states else ()
        )
        # generate, too, compares float32 numbers.
        return torch.as_tensor(output.logits).float()

    def settle(self, accepted: Sequence[int]) -> None:
        """Keep so many drafted tokens of each row."""
        # What no row has accepted goes. What only some have stays in the others too, as holes: cutting each row where its own
        # text ends would mean writing the whole cache anew.
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
        # Attention reads holes in vain, and closing them copies the cache once: so not before they are a fifth of it.
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
        # A key has been given its position already, so the slot it lies in says nothing.
        for layer in self.cache.layers:
            if layer.is_initialized:
                chosen = slots.to(layer.keys.device)[:, None, :, None]
                layer.keys = layer.keys.take_along_dim(chosen, 2)
                layer.values = layer.values.take_along_dim(chosen, 2)

    def _cropped_floor(self) -> int:
        # A crop lets a sliding window forget what is before it, so no second one may go further back.
        return 0 if self.plain else self._counts.shape[1]


@torch.inference_mode()
def read_on(model: Any, prefix: Prefix, length: int, tokens: list[int]) -> Prefix:
    """Run tokens through the model after the first `length` ones of a prefix; return all of that as a prefix."""
    rows = Rows(model, [(prefix, length)])
    rows.forward([tokens], [[]])
    return rows.prefix(0, prefix.tokens[:length] + tokens)


def cache_argument(model: Any) -> str:
    """Return what a model calls its cache: transformers renamed it in 5.24, and takes the old name no longer from 5.40 on."""
    # Within PEFT's wrapper, if there is one, which takes anything.
    kind: Any = type(model.get_base_model() if hasattr(model, "get_base_model") else model)
    return _cache_argument_of(kind)


@functools.cache
def _cache_argument_of(kind: Any) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def _fill(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values


class GrowingLayer(DynamicLayer):
    """A cache layer whose keys and values are the used part of tensors written in place, made anew when they are full.

    What it goes on from is copied once, at the first pass.

    Args:
        before: What it goes on from; its tensors stay as they are.
    """

    def __init__(self, before: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if before.keys is not None and before.values is not None:
            self.lazy_initialization(before.keys, before.values)
            self.keys, self.values = before.keys, before.values
        # Rooms are never shared: with a first append into its own, a layer leaves the tensors it goes on from to others.
        self._keys = _Room()
        self._values = _Room()

    def __copy__(self) -> GrowingLayer:
        return GrowingLayer(self)  # with rooms of its own

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append; tensors of shape (rows, heads, tokens, size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys = self._keys.append(self.keys, key_states)
        values = self._values.append(self.values, value_states)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, given as a tensor of their places."""
        self.keys = self._keys.select(self.keys, indices)
        self.values = self._values.select(self.values, indices)


class _Room:
    """A tensor of which the beginning is used."""

    def __init__(self) -> None:
        self._whole = torch.empty(0)

    def append(self, used: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """Return the used part with new tokens after it."""
        known = used.shape[2] if used is not None and used.numel() else 0
        needed = known + new.shape[2]
        if used is None or not self._holds(used) or self._whole.shape[2] < needed:
            # By half again, so that however long a text gets, each token is copied about twice.
            self._whole = new.new_empty((*new.shape[:2], needed + needed // 2, new.shape[3]))
            if used is not None and known:
                self._whole[:, :, :known] = used
        self._whole[:, :, known:needed] = new  # over what was cropped, if anything was
        return self._whole[:, :, :needed]

    def select(self, used: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
        """Return these rows of the used part, with room after them if there was some."""
        if used is None or not used.numel():
            return used
        if not self._holds(used):
            return used[rows]
        self._whole = self._whole.index_select(0, rows)
        return self._whole[:, :, : used.shape[2]]

    def _holds(self, used: torch.Tensor) -> bool:
        """Whether this is the used part: whoever puts another tensor in its place, as closing holes does, leaves the room."""
        return self._whole.numel() > 0 and used.data_ptr() == self._whole.data_ptr()
