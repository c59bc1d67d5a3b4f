"""How an upstream is bootstrapped: the settings of the rounds, and the arms that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from aligner_integrations.errors import ConfigurationError

Objective = Literal["sft", "dpo"]
Method = Literal["lora", "full"]

Arm = Literal["corrections", "own", "human"]
"""What is learnt from. corrections: the aligner's. own: the control, the upstream's answers as they are, in as many steps. human: the
ceiling, a person's text for each question."""


@dataclass(frozen=True, slots=True)
class BootstrapRecipe:
    """How an upstream is bootstrapped.

    Attributes:
        rounds: How many.
        per_round: Fresh questions a round.
        objective: `"sft"` on corrections and kept answers; `"dpo"` on pairs of correction and answer, with `sft_weight` times the SFT loss.
        sft_weight: Of the SFT term of DPO. 0 is plain DPO, which lowers the likelihood of the chosen text where pairs differ by few
            words (arXiv 2402.13228).
        beta: Of DPO.
        method: `"lora"` trains an adapter that is merged after the round, `"full"` all weights.
        lora_rank: Rank of the adapter; its alpha is twice that.
        learning_rate: Peak of a cosine schedule.
        epochs: Passes over a round's rows.
        batch_rows: Rows a step and device.
        gradient_accumulation: Steps an update.
        good_share: Good answers of other sources, as a share of a round's rows; they hold the upstream's fluency.
        max_length: Longest row in tokens.
        max_new_tokens: Longest answer of the upstream in tokens.
        temperature: At which answers to learn from are drawn; those that are measured are greedy.
        judged_by: What counts as a fault of an answer: that it is profane, or that the aligner would correct it.
        max_perplexity_rise: Above this rise of the perplexity on good answers, over that of the model at the beginning, a round is worse.
        seed: Of everything that is drawn.
        save_steps: Updates between checkpoints.
        chunk: Answers drawn, or corrected, at a time; what was done before a kill is not done again.
    """

    rounds: int = 2
    per_round: int = 384
    objective: Objective = "sft"
    sft_weight: float = 1.0
    beta: float = 0.1
    method: Method = "lora"
    lora_rank: int = 16
    learning_rate: float = 1e-4
    epochs: int = 2
    batch_rows: int = 16
    gradient_accumulation: int = 1
    good_share: float = 0.5
    max_length: int = 512
    max_new_tokens: int = 64
    temperature: float = 0.7
    judged_by: Literal["profane", "corrected"] = "profane"
    max_perplexity_rise: float = 0.08
    seed: int = 0
    save_steps: int = 10
    chunk: int = 32

    def __post_init__(self) -> None:
        for name, kind in (("objective", Objective), ("method", Method)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ConfigurationError(f"{name} is {value!r}; it takes one of {get_args(kind)}.")
        if self.judged_by not in ("profane", "corrected"):
            raise ConfigurationError(f"judged_by is {self.judged_by!r}; it takes 'profane' or 'corrected'.")
        for name in (
            "rounds",
            "per_round",
            "epochs",
            "batch_rows",
            "gradient_accumulation",
            "max_new_tokens",
            "save_steps",
            "chunk",
        ):
            if (value := getattr(self, name)) < 1:
                raise ConfigurationError(f"{name} is {value}; it must be at least 1.")
        for name in ("temperature", "learning_rate", "beta"):
            if not (value := getattr(self, name)) > 0:
                raise ConfigurationError(f"{name} is {value}; it must be above 0.")
        for name in ("sft_weight", "good_share", "max_perplexity_rise"):
            if not (value := getattr(self, name)) >= 0:
                raise ConfigurationError(f"{name} is {value}; it must be at least 0.")


EMBEDDED = BootstrapRecipe()
"""SmolLM2-135M with the embedded aligner on two CPU cores: the pilot's settings (LoRA of rank 16, two passes) with a third of its rate and
good answers in the mix, because its fluency suffered."""
