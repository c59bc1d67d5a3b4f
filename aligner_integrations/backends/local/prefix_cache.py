"""What has gone through a model and can be gone on from: the beginnings of prompts, with the model's cache of them.

So the answer that the gate has read is not read again to be corrected, nor a question for its next draft or round, nor
what an aligner read while the upstream still wrote (`prefill.py`). The tokens alone decide what is used again.

No tensor of a prefix's cache is ever changed in place (a pass makes longer ones, or copies them first), so whoever goes on
from a prefix shares its memory until the first pass, and those of one batch share theirs. The tensors on their way through
the model: `kv_cache.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aligner_integrations.forking import Lock

# Most bytes of caches that wait to be gone on from.
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Tokens that have gone through the model.

    Attributes:
        tokens: Token ids, from the beginning of the prompt on.
        cache: The model's cache of them.
        choices: What the model would have written after some of them, greedily.
        first: Index of the token after which the first of those comes.
        floor: Least number of tokens it can be cut down to; layers with a sliding window forget what is before that.
    """

    tokens: list[int]
    cache: Any
    choices: list[int] = field(default_factory=list)
    first: int = 0
    floor: int = 0

    def common(self, tokens: Sequence[int]) -> int:
        """Return with how many of its tokens a text begins."""
        most = min(len(self.tokens), len(tokens))
        return next((i for i in range(most) if self.tokens[i] != tokens[i]), most)

    def start(self, length: int) -> Any:
        """Return a cache of its first `length` tokens, at least `floor`, to go on from."""
        cache = copy.copy(self.cache)
        # Layers of its own over the same tensors: a crop takes a view, and nobody else sees it.
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        if length < len(self.tokens):
            cache.crop(length - len(self.tokens))
        return cache

    @property
    def nbytes(self) -> int:
        """Memory that it keeps."""
        return sum(self.memory().values())

    def memory(self) -> dict[int, int]:
        """Return the blocks of memory that it keeps: address -> bytes."""
        tensors = [t for layer in self.cache.layers for t in (layer.keys, layer.values) if t is not None]
        blocks = (tensor.untyped_storage() for tensor in tensors)
        return {block.data_ptr(): block.nbytes() for block in blocks}


NOTHING = Prefix([], None)


class Prefixes:
    """The prefixes of one model that wait to be gone on from: bounded in bytes, those used last stay.

    Safe to use from any thread.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: list[Prefix] = []
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, prefix: Prefix) -> bool:
        return prefix in self._kept

    @property
    def nbytes(self) -> int:
        """Memory that they keep."""
        blocks: dict[int, int] = {}
        for prefix in self._kept:
            blocks.update(prefix.memory())
        return sum(blocks.values())

    def find(self, tokens: Sequence[int]) -> tuple[Prefix, int]:
        """Return the prefix that has most in common with a text, and how many tokens that is; else (NOTHING, 0)."""
        with self._lock:
            best, length = NOTHING, 0
            # A token's keys and values depend on those before it alone. So any prefix may be cut where the texts part, unless a
            # sliding window has forgotten what would then be looked back at.
            for prefix in reversed(self._kept):
                if (common := prefix.common(tokens)) > length and common >= prefix.floor:
                    best, length = prefix, common
            if length:
                self._kept.remove(best)
                self._kept.append(best)
            return best, length

    def add(self, *prefixes: Prefix) -> None:
        """Keep prefixes, instead of those that they go on from."""
        with self._lock:
            for prefix in prefixes:
                # What a longer prefix begins with can be had from that one.
                self._kept = [old for old in self._kept if old.common(prefix.tokens) < len(old.tokens)]
                self._kept.append(prefix)
            # From the latest back; memory that several share is counted once.
            blocks: dict[int, int] = {}
            for place in range(len(self._kept) - 1, -1, -1):
                blocks.update(self._kept[place].memory())
                if sum(blocks.values()) > self.most_bytes:
                    del self._kept[: place + 1]
                    break

    def drop(self, prefix: Prefix) -> None:
        """Free a prefix, if it is still here."""
        with self._lock:
            if prefix in self._kept:
                self._kept.remove(prefix)

    def clear(self) -> None:
        """Free all of them."""
        with self._lock:
            self._kept.clear()
