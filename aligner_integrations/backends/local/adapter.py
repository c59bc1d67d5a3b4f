"""Merging a plain LoRA adapter into weights that are being loaded, without PEFT, whose import takes as long as all the rest.

What is not plain (another kind of adapter, another scaling, trained embeddings, names that do not fit) is left to PEFT (`loading.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

# What an adapter_config.json may say beyond what a plain adapter leaves empty.
_PLAIN = {
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
}
_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def merge(tensors: Mapping[str, torch.Tensor], folder: Path) -> bool:
    """Add an adapter to weights in place; return whether that was done, or else PEFT has to look at it.

    Args:
        tensors: The base's weights by name, in float32; nothing else may use their memory.
        folder: The adapter's.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        adapter = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError):
        return False
    if not _is_plain(config):
        return False
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in adapter.items():
        if (match := _NAME.fullmatch(name)) is None:
            return False
        parts.setdefault(f"{match.group(1)}.weight", {})[match.group(2)] = tensor.float()
    wanted = {name for name in tensors if name.split(".")[-2] in config["target_modules"]}
    if parts.keys() != wanted or not all(_fits(tensors[name], parts[name], config["r"]) for name in wanted):
        return False
    scaling = config["lora_alpha"] / config["r"]
    for name, part in parts.items():
        tensors[name].addmm_(part["B"], part["A"], alpha=scaling)
    return True


def _is_plain(config: Any) -> bool:
    if not isinstance(config, dict) or any(value and name not in _PLAIN for name, value in config.items()):
        return False
    numbers = all(isinstance(config.get(name), int | float) for name in ("r", "lora_alpha"))
    return (
        numbers
        and config["r"] > 0
        and config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and not config.get("alpha_pattern")
        and isinstance(config.get("target_modules"), list)
    )


def _fits(weight: torch.Tensor, part: Mapping[str, torch.Tensor], rank: int) -> bool:
    if part.keys() != {"A", "B"}:
        return False
    return part["A"].shape == (rank, weight.shape[1]) and part["B"].shape == (weight.shape[0], rank)
