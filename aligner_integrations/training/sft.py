"""Supervised training of an aligner: cross entropy on the correction's tokens only (paper, equation 4).

Built on TRL's SFTTrainer, PEFT and accelerate. The rows of all passes are laid out as one ordered list of batches, the
identity warm-up first (the paper's two stages), so that a killed run resumes at the batch it had reached.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import os
import platform
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from aligner_integrations.backends.local.devices import quick_dtype
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.training.checkpoints import newest_whole
from aligner_integrations.training.data import (
    EncodedTriple,
    batches_by_rows,
    batches_by_tokens,
    encode_triples,
    identity_pairs,
)
from aligner_integrations.training.provenance import read_stage, write_stage, write_whole
from aligner_integrations.training.recipes import Recipe
from aligner_integrations.training.telling import moving_bars, tell_losses
from aligner_integrations.triples import Triple

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from aligner_integrations.templates import Template


# glibc's names of its settings.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What happened in a training: counts, seconds over all resumed runs, where, and (step, loss, learning rate) points."""

    rows: int
    refused: int
    steps: int
    tokens: int
    seconds: float
    machine: str
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gives: the model (a PeftModel with `method="lora"`), its weights in bfloat16, and the report."""

    model: PreTrainedModel | PeftModel
    state: dict[str, torch.Tensor]
    report: TrainingReport


def lay_out(
    triples: Sequence[Triple], tokenizer: PreTrainedTokenizerBase, template: Template, recipe: Recipe
) -> tuple[list[list[EncodedTriple]], int]:
    """Return all batches in training order, identity warm-up first, and the number of refused rows."""
    encoded = encode_triples(triples, tokenizer, template, recipe.max_length)
    if not encoded.rows:
        raise ConfigurationError(
            f"None of the {len(triples)} rows fits max_length={recipe.max_length} tokens; nothing to train on."
        )
    rng = random.Random(recipe.seed)

    def batches(rows: Sequence[EncodedTriple]) -> list[list[EncodedTriple]]:
        if recipe.batch_tokens:
            return batches_by_tokens(rows, recipe.batch_tokens, rng)
        return batches_by_rows(rows, recipe.batch_rows, rng)

    order: list[list[EncodedTriple]] = []
    if recipe.identity_share:
        share = rng.sample(list(triples), round(len(triples) * recipe.identity_share))
        order += batches(encode_triples(identity_pairs(share), tokenizer, template, recipe.max_length).rows)
    for _ in range(recipe.epochs):
        order += batches(encoded.rows)
    return order, encoded.refused


class _CpuTrainer(SFTTrainer):
    """The same loss with torch's own cross entropy.

    TRL's fused head saves a GPU's memory; on a CPU its tiles are folded in Python and took a third of every step. There
    is no attention mask either: rows are padded on the right, where a causal model never looks back from, and without
    a mask torch takes the attention kernel that is four times faster on short rows.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        wanted = inputs["labels"][:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=quick_dtype() == torch.bfloat16):
            hidden = base.get_decoder()(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
            # The vocabulary is wide: logits only where there is a label.
            logits = base.get_output_embeddings()(hidden[:, :-1][wanted != -100])
        labels = wanted[wanted != -100]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _collate(pad: int) -> Any:
    """Collator for a data set whose every item is a batch: pad on the right, loss on the completion only."""

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [row for item in items for row in item["rows"]]
        width = max(len(row["prompt"]) + len(row["completion"]) for row in rows)
        ids = torch.full((len(rows), width), pad)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            both = row["prompt"] + row["completion"]
            ids[i, : len(both)] = torch.tensor(both)
            labels[i, len(row["prompt"]) : len(both)] = torch.tensor(row["completion"])
            mask[i, : len(both)] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    return collate


class _Clock(TrainerCallback):
    """Adds up the seconds of all runs of one training, so that a resumed one reports the whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = 0.0
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.before = seconds.get(str(state.global_step), 0.0) if state.global_step else 0.0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = json.loads(self.path.read_text()) if self.path.exists() else {}
        seconds[str(state.global_step)] = self.seconds
        write_whole(self.path, json.dumps(seconds))


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    triples: Sequence[Triple],
    recipe: Recipe,
    folder: Path,
    start: Path | None = None,
    made_of: Mapping[str, str] | None = None,
) -> Trained:
    """Train an aligner; resumes from the newest checkpoint in `folder` if there is one.

    Under `accelerate launch` every process calls this, and each gets the whole weights.

    Args:
        model: The base. With `method="lora"` it may be in `devices.quick_dtype()`; the adapter is kept in float32.
        tokenizer: The base's tokenizer.
        template: The template the aligner will be used with.
        triples: Q-A-C rows.
        recipe: The hyper-parameters.
        folder: Where checkpoints go.
        start: Folder of a LoRA adapter to go on from (paper, appendix C.5: an aligner learns a further feature).
        made_of: Digests of all of these; see `provenance.py`. A checkpoint of other rows would be at the wrong place.

    Raises:
        ConfigurationError: Nothing to train on, the folder belongs to another training, or `start` is no adapter.
    """
    order, refused = lay_out(triples, tokenizer, template, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if read_stage(folder / "training.json", made_of or {}) is None:
        write_stage(folder / "training.json", {}, made_of or {})
    torch.manual_seed(recipe.seed)
    trainable: Any = model
    if start is not None:
        trainable = _read_adapter(model, recipe, start)
    elif recipe.method == "lora":
        trainable = get_peft_model(
            model,
            LoraConfig(
                r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, task_type="CAUSAL_LM", target_modules="all-linear"
            ),
            autocast_adapter_dtype=True,
        )
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    trainer = (_CpuTrainer if on_cpu else SFTTrainer)(
        model=trainable,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"rows": [row._asdict() for row in batch]} for batch in order]),
        data_collator=_collate(tokenizer.eos_token_id),
        callbacks=[clock := _Clock(folder / "seconds.json")],
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=recipe.gradient_accumulation,
            num_train_epochs=1,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup_ratio,
            adam_beta1=recipe.betas[0],
            adam_beta2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            max_grad_norm=1.0,
            bf16=quick_dtype() == torch.bfloat16,
            use_cpu=on_cpu,
            gradient_checkpointing=recipe.gradient_checkpointing,
            seed=recipe.seed,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            # No interval of the curve may span a checkpoint: a resumed run has forgotten the losses before it.
            logging_steps=math.gcd(recipe.save_steps, 10),
            save_steps=recipe.save_steps,
            save_total_limit=2,
            report_to=[],
            dataloader_pin_memory=not on_cpu,
            disable_tqdm=not moving_bars(),
        ),
    )
    tell_losses(trainer)
    trainer.train(resume_from_checkpoint=newest_whole(folder))
    log = [(int(e["step"]), e["loss"], e["learning_rate"]) for e in trainer.state.log_history if "loss" in e]
    report = TrainingReport(
        rows=len(triples) - refused,
        refused=refused,
        steps=trainer.state.global_step,
        tokens=sum(len(row) for batch in order for row in batch),
        seconds=round(clock.seconds, 1),
        machine=_machine(),
        curve=log,
    )
    # FSDP shards the weights: they are gathered here, by all processes together. What is tied stays tied.
    gathered: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model)
    halves: dict[int, torch.Tensor] = {}
    state = {name: halves.setdefault(tensor.data_ptr(), tensor.bfloat16()) for name, tensor in gathered.items()}
    return Trained(trainer.accelerator.unwrap_model(trainer.model), state, report)


def _read_adapter(model: PreTrainedModel, recipe: Recipe, start: Path) -> PeftModel:
    if recipe.method != "lora" or not (start / "adapter_model.safetensors").is_file():
        raise ConfigurationError(
            f"{start} has to be the folder of a LoRA adapter, and method 'lora'. A whole model that is trained further is "
            "simply the base."
        )
    adapter = PeftModel.from_pretrained(model, start, is_trainable=True, autocast_adapter_dtype=True)
    adapter.peft_config["default"].base_model_name_or_path = ""  # PEFT would ask the Hub for it at each checkpoint
    return adapter


def _machine() -> str:
    """Say what the training ran on, for the card."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "an Apple GPU"
    return f"{os.cpu_count()} CPU cores ({torch.backends.cpu.get_cpu_capability()})"


def keep_freed_memory() -> None:
    """Tell glibc to reuse large freed blocks instead of giving them back to the system.

    Every step of a training allocates and frees the same few gigabytes of activations. By default glibc maps and unmaps
    them each time, and on virtual machines the page faults took four fifths of the time (47 s a step became 11 s).
    Does nothing where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 256 * 2**20)
