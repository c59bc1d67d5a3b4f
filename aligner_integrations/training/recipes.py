"""How aligners are trained: the hyper-parameters, and the sets of them that have a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from aligner_integrations.errors import ConfigurationError

Method = Literal["full", "lora"]

LORA_LEARNING_RATE = 6e-4
"""For an adapter: that of the embedded recipe. The paper's 2e-5 is for all weights.

After one pass over 300 rows it leaves a smaller loss on others than 2e-4 (1.04 and 1.13 nats a token); whether a larger one is better,
and what adapters of other sizes need, is not measured.
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an aligner is trained.

    Attributes:
        method: `"full"` updates all weights, `"lora"` an adapter.
        epochs: Passes over the triples.
        learning_rate: Peak of a cosine schedule with warm-up.
        warmup_ratio: Share of the steps in which the learning rate rises.
        max_length: Longest prompt and correction together, in tokens; longer rows are refused and counted.
        batch_rows: Rows per device and step; ignored when `batch_tokens` is set.
        batch_tokens: Padded tokens per device and step, for rows of very different lengths.
        gradient_accumulation: Steps per update.
        identity_share: Size of the identity warm-up stage as a share of the triples (paper, section 3 and figure 3).
        lora_rank: Rank of the adapter; its alpha is twice that.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        gradient_checkpointing: Trade time for memory.
        seed: Order of the rows and initial weights of the adapter.
        save_steps: Updates between checkpoints.
    """

    method: Method = "full"
    epochs: int = 3
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.03
    max_length: int = 2048
    batch_rows: int = 4
    batch_tokens: int | None = None
    gradient_accumulation: int = 8
    identity_share: float = 0.2
    lora_rank: int = 32
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    gradient_checkpointing: bool = True
    seed: int = 42
    save_steps: int = 100

    def with_changes(self, **changes: Any) -> Recipe:
        """Return the recipe with other values; an adapter in place of all weights takes `LORA_LEARNING_RATE`, if none is given."""
        if self.method == "full" and changes.get("method") == "lora":
            changes.setdefault("learning_rate", LORA_LEARNING_RATE)
        return replace(self, **changes)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigurationError(f"method is {self.method!r}; it takes one of {get_args(Method)}.")
        if not 0 <= self.identity_share <= 1:
            raise ConfigurationError(f"identity_share is {self.identity_share}; it is a share between 0 and 1.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigurationError(
                f"learning_rate is {self.learning_rate}; it is above 0 and at most 1, often below 0.001."
            )
        if self.epochs < 1 or self.max_length < 8:
            raise ConfigurationError(
                f"epochs is {self.epochs} and max_length {self.max_length}; need at least 1 and 8."
            )


# Two CPU cores: an adapter, batches by tokens, one layout in which the mixture itself holds the identity pairs.
_ADAPTER = Recipe(
    method="lora",
    epochs=1,
    learning_rate=6e-4,
    warmup_ratio=0.06,
    max_length=1024,
    batch_tokens=2048,
    gradient_accumulation=1,
    identity_share=0.0,
    gradient_checkpointing=False,
    save_steps=50,
)

RECIPES: dict[str, Recipe] = {
    # Paper, table 22: 8 GPUs x 4 rows x 8 accumulation steps, full parameters, three epochs, AdamW, cosine, bf16.
    "paper": Recipe(),
    "embedded": _ADAPTER,
    # Dozens to thousands of short rows on a laptop: an update every few rows, where the paper's would come every 32.
    "small": replace(_ADAPTER, learning_rate=4e-4, warmup_ratio=0.1, batch_tokens=512, save_steps=25),
}

EMBEDDED_SECOND_PASS = replace(RECIPES["embedded"], learning_rate=4e-4, save_steps=25)
"""The embedded recipe's second pass, which goes on from the first and must not forget it."""
