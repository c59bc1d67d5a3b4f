"""Where a model runs, and in which numbers: what a device multiplies fast."""

from __future__ import annotations

from typing import Any

import torch

# Above this many bytes of weights a CPU holds them in bfloat16; below, float32 steps are faster and exact.
_FLOAT32_LIMIT = 4 * 2**30


def default_device() -> str:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_dtype(device: str, weight_bytes: int) -> Any:
    """Return a dtype that is fast on the device and fits its memory."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device == "mps":
        return torch.float16
    return torch.float32 if weight_bytes <= _FLOAT32_LIMIT else torch.bfloat16


def quick_dtype() -> torch.dtype:
    """Return the dtype that many tokens at a time are computed fastest in here: bfloat16 where the hardware has it, else float32.

    A CPU with AVX-512's or AMX's bfloat16 multiplies large matrices up to five times as fast in it. One that only has AVX2, as many
    laptops and servers do, has to take such numbers apart, and is four to five times slower than in float32.
    """
    if default_device() != "cpu":
        return torch.bfloat16
    has_it = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_it else torch.float32
