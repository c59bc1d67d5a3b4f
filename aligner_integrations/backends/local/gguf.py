"""Base weights from a GGUF file: unpacked at each load, so that no larger copy of them lies on the disk.

What takes long is what stands before the tensors: 100,000 words of a tokenizer. So a small folder is made once for each file
(`converted.py`): the configuration and the tokenizer as transformers reads them, and where in the file each tensor lies.
Llamas only, which is what SmolLM2 is.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aligner_integrations.backends.local import converted
from aligner_integrations.backends.local.telling import telling
from aligner_integrations.errors import ModelLoadError, first_line, require

with require("local", "The base weights are a GGUF file, and reading it needs {missing}", "gguf"):
    from gguf import GGMLQuantizationType, GGUFReader
    from gguf.quants import dequantize, quant_shape_to_byte_shape

_TABLE = "tensors.json"
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor lies in the file.

    Attributes:
        name: Its name in transformers.
        kind: How its numbers are packed.
        start: Its first byte.
        shape: (rows, columns), or (size,).
        heads: Into how many pieces its rows are woven; None: they are not.
    """

    name: str
    kind: int
    start: int
    shape: tuple[int, ...]
    heads: int | None


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield the small folder that belongs to a GGUF file; it is made if there is none.

    Raises:
        ModelLoadError: The file cannot be read.
    """
    key = converted.key_of(path)
    if (folder := converted.find(key)) is not None:
        yield folder
        return
    kept = converted.cache_folder()
    where = f"in {kept}" if kept else "nowhere (see ALIGNER_WEIGHTS_CACHE), so each process does it again"
    with telling(f"Reading the tokenizer of the base weights, once; it takes some seconds, and 4 MB are kept {where}."):
        converted.store(key, lambda place: _prepare(path, place))
        if (folder := converted.find(key)) is not None:
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="aligner-") as place:
            _prepare(path, Path(place))
            yield Path(place)


def tensors_of(path: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights by their names in transformers, in float32.

    Args:
        path: The GGUF file.
        folder: The small folder that belongs to it.

    Raises:
        ModelLoadError: The file does not hold what the folder says.
    """
    table = [
        _Tensor(**{**row, "shape": tuple(row["shape"])}) for row in json.loads((folder / _TABLE).read_text("utf-8"))
    ]
    try:
        packed = np.memmap(path, np.uint8, "r")
        # Unpacking is arithmetic of numpy, during which other threads run.
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return dict(pool.map(lambda one: (one.name, _unpack(one, packed)), table))
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"The weights in {path} cannot be loaded: {type(error).__name__}: {first_line(error)}."
        ) from error


def _unpack(one: _Tensor, content: np.ndarray[Any, Any]) -> torch.Tensor:
    kind = GGMLQuantizationType(one.kind)
    shape = quant_shape_to_byte_shape(one.shape, kind)
    size = int(np.prod(shape))
    packed = content[one.start : one.start + size].reshape(shape)
    weights = _unpack_q4_1(packed) if kind == GGMLQuantizationType.Q4_1 else dequantize(packed, kind)
    if one.heads is not None:  # llama.cpp rotates pairs that lie side by side, transformers those half a head apart
        half = one.shape[0] // one.heads // 2
        weights = weights.reshape(one.heads, half, 2, *one.shape[1:]).swapaxes(1, 2)
    # Copied only where it is not in one piece, or still the file's.
    return torch.from_numpy(np.require(weights.reshape(one.shape), np.float32, ["C", "W"]))


def _unpack_q4_1(packed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same as gguf's, in less than half the time: nearly all of SmolLM2 is packed so, 32 numbers in 20 bytes."""
    blocks = packed.reshape(-1, 20)
    scale = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32)
    found = np.empty((len(blocks), 2, 16), np.float32)
    np.multiply(blocks[:, 4:] & 15, scale[:, :1], out=found[:, 0])
    np.multiply(blocks[:, 4:] >> 4, scale[:, :1], out=found[:, 1])
    found += scale[:, 1:, None]
    return found.reshape(packed.shape[0], -1)


# Once for each file ---------------------------------------------------------------------------------------------------


def _prepare(path: Path, place: Path) -> None:
    """Write configuration, tokenizer and the table of tensors into a folder."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        config: Any = AutoConfig.from_pretrained(path.parent, **where)
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, clean_up_tokenization_spaces=False, **where)
        table = _table(path, config)
    except Exception as error:  # broken files fail in any way, also with a plain Exception
        raise ModelLoadError(
            f"The weights in {path} cannot be loaded: {type(error).__name__}: {first_line(error)}."
        ) from error
    config.save_pretrained(place)
    tokenizer.save_pretrained(place)
    GenerationConfig.from_model_config(config).save_pretrained(place)
    (place / _TABLE).write_text(json.dumps(table, default=int), "utf-8")


def _table(path: Path, config: Any) -> list[dict[str, Any]]:
    if config.model_type != "llama":
        raise ValueError(f"it is a {config.model_type}, and only a llama can be read")
    reader = GGUFReader(path)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return [
        {
            "name": _name(one.name),
            "kind": int(one.tensor_type),
            "start": int(one.data_offset),
            "shape": [int(size) for size in reversed(one.shape)],
            "heads": heads.get(one.name.split(".")[-2]),
        }
        for one in reader.tensors
    ]


def _name(name: str) -> str:
    """Return a tensor's name in transformers."""
    parts = name.split(".")  # blk.0.attn_q.weight, output_norm.weight
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_IN_LAYER[parts[2]]}.{parts[3]}"
    return f"{_OUTSIDE[parts[0]]}.{parts[1]}"
