"""One round's training: SFT, or DPO with an SFT term, through TRL; from a folder of checkpoints it goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from aligner_integrations.backends.local.devices import quick_dtype
from aligner_integrations.backends.local.loading import load_base
from aligner_integrations.training.bootstrap.recipe import BootstrapRecipe
from aligner_integrations.training.checkpoints import newest_whole
from aligner_integrations.training.provenance import read_stage, write_stage, written_beside
from aligner_integrations.training.sft import keep_freed_memory
from aligner_integrations.training.telling import moving_bars, quiet, tell_losses


@quiet()
def tune(
    upstream: str,
    revision: str | None,
    rows: list[dict[str, Any]],
    recipe: BootstrapRecipe,
    folder: Path,
    made_of: Mapping[str, str],
) -> dict[str, Any]:
    """Train an upstream and write it as a whole model into `folder`; checkpoints go beside it.

    Args:
        upstream: Hub id or folder.
        revision: Commit on the Hub.
        rows: What it learns from.
        recipe: How.
        folder: Folder of the result.
        made_of: Digests of all of these; a checkpoint of other rows would be at the wrong place.

    Returns:
        Steps, seconds of this run, and (step, loss) points.
    """
    checkpoints = folder.with_name("checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    if read_stage(checkpoints / "training.json", made_of) is None:
        write_stage(checkpoints / "training.json", {}, made_of)
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if on_cpu:
        keep_freed_memory()
    model, tokenizer = load_base(upstream, revision, dtype=torch.float32)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    torch.manual_seed(recipe.seed)
    adapter = None
    if recipe.method == "lora":
        adapter = LoraConfig(
            r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, task_type="CAUSAL_LM", target_modules="all-linear"
        )
    options: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": recipe.batch_rows,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "bf16": quick_dtype() == torch.bfloat16,
        "use_cpu": on_cpu,
        "gradient_checkpointing": False,
        "seed": recipe.seed,
        "max_length": recipe.max_length,
        "logging_steps": 1,
        "save_steps": recipe.save_steps,
        "save_total_limit": 2,
        "report_to": [],
        "dataloader_pin_memory": not on_cpu,
        "disable_tqdm": not moving_bars(),
    }
    data = Dataset.from_list(rows)
    trainer: Any
    if recipe.objective == "sft":
        trainer = SFTTrainer(
            model, SFTConfig(**options), train_dataset=data, processing_class=tokenizer, peft_config=adapter
        )
    else:
        losses: dict[str, Any] = {}
        if recipe.sft_weight:
            losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, recipe.sft_weight]}
        config = DPOConfig(**options, beta=recipe.beta, precompute_ref_log_probs=True, **losses)
        trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
    tell_losses(trainer)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=newest_whole(checkpoints))
    result = trainer.accelerator.unwrap_model(trainer.model)
    if adapter is not None:
        result = result.merge_and_unload()
    with written_beside(folder) as beside:
        result.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    curve = [(int(e["step"]), e["loss"]) for e in trainer.state.log_history if "loss" in e]
    return {
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "curve": curve,
    }
