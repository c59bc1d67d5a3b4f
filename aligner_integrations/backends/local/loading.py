"""Loading weights with transformers and PEFT: once per process for each (files, device, dtype, quantisation).

safetensors (or the GGUF of an installed package) only, `trust_remote_code` never. What lives elsewhere: which files a name
means (`models.py`), which device and dtype (`devices.py`), GGUF files (`gguf.py`), plain adapters (`adapter.py`), what makes a CPU fast (`cpu.py`).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligner_integrations import hub  # noqa: F401 - before transformers, because it keeps tqdm from warning
from aligner_integrations.backends.local.batching import Batcher
from aligner_integrations.backends.local.libraries import required
from aligner_integrations.backends.semaphore import Semaphore
from aligner_integrations.errors import ModelLoadError, first_line, require
from aligner_integrations.forking import Lock
from aligner_integrations.models import SMOLLM2, ModelFiles, fingerprint_of, locate, locate_base
from aligner_integrations.threads import OneByOne

with required():
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aligner_integrations.backends.local import gguf
from aligner_integrations.backends.local.adapter import merge
from aligner_integrations.backends.local.cpu import pack, share_heads
from aligner_integrations.backends.local.devices import default_device, default_dtype
from aligner_integrations.backends.local.prefix_cache import Prefixes
from aligner_integrations.backends.local.probe import GateProbe
from aligner_integrations.backends.local.silence import silent
from aligner_integrations.backends.local.speculative import DraftSupport, find_support

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Weights:
    """A loaded aligner, shared by everyone who asked for the same one.

    Attributes:
        model: An ordinary transformers model, in eval mode; an adapter is merged into it unless it is quantised.
        tokenizer: Its tokenizer.
        probe: The gate's probe, if the aligner has one.
        window: Longest context in tokens; None if the model has no limit.
        stop_ids: Token ids that end a completion.
        drafts: What drafting from the answer can do with this model; None where it cannot.
        prefixes: What went through the model lately and may be gone on from.
        lock: Held while the model runs, because a pass already uses all cores; given to whoever has waited longest.
        worker: Writes streams for asynchronous callers, one after the other.
        batchers: Those that collect what runs together, by what they run and how.
    """

    model: Any
    tokenizer: Any
    probe: GateProbe | None
    window: int | None
    stop_ids: list[int]
    drafts: DraftSupport | None = None
    prefixes: Prefixes = field(default_factory=Prefixes)
    lock: Semaphore = field(default_factory=lambda: Semaphore(1))
    worker: OneByOne = field(default_factory=OneByOne)
    batchers: dict[Any, Batcher[Any, Any]] = field(default_factory=dict)

    def padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows of token ids as a rectangle, padded on the left, and its attention mask, both (rows, longest)."""
        width, pad, device = max(map(len, rows)), self.tokenizer.pad_token_id, self.model.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        return ids, mask


_loaded: dict[tuple[Any, ...], Weights] = {}
_locks: dict[tuple[Any, ...], Lock] = {}
_guard = Lock()


def load_weights(
    name: str, revision: str | None, device: str | None, dtype: str | None, quantization_config: Any
) -> Weights:
    """Return the weights of an aligner, loading them if nobody in this process has.

    Raises:
        ModelError: They cannot be had; see the subclasses.
    """
    device = device or default_device()
    key = _key(name, revision, device, dtype, quantization_config)
    with _guard:
        lock = _locks.setdefault(key, Lock())
    with lock:
        if key not in _loaded:
            files = locate(name, revision)
            fingerprint_of(name, revision, files)
            with silent():
                _loaded[key] = _load(files, device, dtype, quantization_config)
        return _loaded[key]


def if_loaded(
    name: str, revision: str | None, device: str | None, dtype: str | None, quantization_config: Any
) -> Weights | None:
    """Return the weights that `load_weights` would, if they are loaded."""
    return _loaded.get(_key(name, revision, device or default_device(), dtype, quantization_config))


def _key(name: str, revision: str | None, device: str, dtype: str | None, quantization_config: Any) -> tuple[Any, ...]:
    return name, revision, device, dtype, repr(quantization_config)


def release() -> None:
    """Forget all loaded weights; memory is freed once no aligner uses them any more."""
    with _guard:
        _loaded.clear()


def load_base(base: str = SMOLLM2, revision: str | None = None, *, dtype: Any = None) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a base model as an ordinary transformers model, free of quantisation marks.

    Args:
        base: Hub id or folder; `"embedded"` is the base of the embedded aligner.
        revision: Commit of a Hub repository.
        dtype: A torch dtype; float32 by default.
    """
    folder, gguf_file = locate_base(SMOLLM2 if base == "embedded" else base, revision)
    with silent():
        return _read(ModelFiles(base, folder, gguf_file), dtype or torch.float32, {})


def load_merged(name: str, revision: str | None = None) -> tuple[Any, Any, list[int]]:
    """Return (model, tokenizer, end tokens) of an aligner as an ordinary transformers model on the CPU, its adapter merged.

    Args:
        name: As for `load_weights`.
        revision: Commit of a Hub repository.

    Raises:
        ModelError: They cannot be had; see the subclasses.
    """
    files = locate(name, revision)
    with silent():
        model, tokenizer = _read(files, default_dtype("cpu", _size(files)), {})
    return model, tokenizer, _ends(files.name, model, tokenizer)


def load_tokenizer(base: str = SMOLLM2, revision: str | None = None) -> Any:
    """Return the tokenizer that `load_base` returns with a model."""
    folder, gguf_file = locate_base(SMOLLM2 if base == "embedded" else base, revision)
    with silent():
        if gguf_file is None:
            return _read_tokenizer(folder)
        with gguf.opened(folder / gguf_file) as read:
            return _read_tokenizer(read)


def _load(files: ModelFiles, device: str, dtype: str | None, quantization_config: Any) -> Weights:
    chosen = default_dtype(device, _size(files)) if dtype is None else getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype):
        raise ModelLoadError(f"dtype is {dtype!r}; it takes a torch dtype's name such as 'float32' or 'bfloat16'.")
    options: dict[str, Any] = {}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if quantization_config is not None or device == "auto":
        options["device_map"] = device
    model, tokenizer = _read(files, chosen, options)
    if "device_map" not in options:
        model = model.to(device)
    model.eval()
    model.requires_grad_(False)
    pack(model)
    share_heads(model)
    probe = _read_probe(files, model.config.get_text_config())
    ends = _ends(files.name, model, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Sampling settings that a checkpoint carries would be mixed into ours; decoding is configured at the call.
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id, eos_token_id=ends)
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Weights(model, tokenizer, probe, window, ends, find_support(model, window))


def _size(files: ModelFiles) -> int:
    return sum(path.stat().st_size for path in files.base.glob("*.safetensors"))


def _ends(name: str, model: Any, tokenizer: Any) -> list[int]:
    """Return the token ids that end a completion."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    if not ids:
        raise ModelLoadError(f"{name} has no end token, so its corrections would never end.")
    return sorted(ids)


def _read(files: ModelFiles, dtype: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the model, with its adapter merged if it can be, and the tokenizer."""
    if files.gguf_file is not None:
        return _read_gguf(files, files.base / files.gguf_file, dtype, options)
    model = _read_model(files.base, dtype, options)
    if files.adapter is not None:
        model = _add_adapter(model, files.adapter, merge="quantization_config" not in options)
    return model, _read_tokenizer(_own_tokenizer(files) or files.base)


def _read_gguf(files: ModelFiles, path: Path, dtype: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """The same from a GGUF: unpacked and merged in float32, whatever the dtype."""
    # Finding what was unpacked of it and importing what will read it take a second each, and neither waits for the other.
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(importlib.import_module, "transformers.models.llama.modeling_llama")
        with gguf.opened(path) as folder:
            tensors = gguf.tensors_of(path, folder)
            importing.result()
            exact = "quantization_config" not in options
            merged = files.adapter is not None and exact and merge(tensors, files.adapter)
            model = _read_model(folder, torch.float32 if exact else dtype, options, tensors)
            tokenizer = _read_tokenizer(_own_tokenizer(files) or folder)
    if files.adapter is not None and not merged:
        model = _add_adapter(model, files.adapter, merge=exact)
    return model.to(dtype) if exact else model, tokenizer


def _own_tokenizer(files: ModelFiles) -> Path | None:
    """Return the adapter's folder if it holds the tokenizer that it was trained with; the base's is the same otherwise."""
    return files.adapter if files.adapter and (files.adapter / "tokenizer.json").exists() else None


def _read_probe(files: ModelFiles, config: Any) -> GateProbe | None:
    layer = None if files.config is None else files.config.gate_layer
    if layer is None:
        return None
    if files.gate is None:
        # Its threshold is one for the probe's logits; compared with gaps it would keep or correct the wrong answers.
        raise ModelLoadError(f"{files.name} names a gate in its configuration, but the gate's file is missing.")
    if not 0 <= layer <= config.num_hidden_layers:
        raise ModelLoadError(
            f"The gate of {files.name} reads layer {layer} of a model with {config.num_hidden_layers}."
        )
    whole = None if files.config is None else files.config.objections_layer
    if whole is not None and not 0 <= whole <= config.num_hidden_layers:
        raise ModelLoadError(
            f"The gate of {files.name} reads layer {whole} of a model with {config.num_hidden_layers}."
        )
    kinds = () if files.config is None else tuple(files.config.objections)
    return GateProbe.load(files.gate, layer, config.hidden_size, whole, kinds)


def _read_model(folder: Path, dtype: Any, options: dict[str, Any], tensors: dict[str, Any] | None = None) -> Any:
    """Return the model in a folder, or the one whose configuration is there and whose weights are given."""
    model: Any
    found: dict[str, Any]
    try:
        loader: Any = AutoModelForCausalLM
        source: dict[str, Any] = {"pretrained_model_name_or_path": folder, "use_safetensors": True}
        if tensors is not None:
            from transformers import LlamaConfig, LlamaForCausalLM

            loader = LlamaForCausalLM
            config = LlamaConfig.from_pretrained(folder, local_files_only=True)
            source = {"pretrained_model_name_or_path": None, "config": config, "state_dict": tensors}
        model, found = loader.from_pretrained(
            **source,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # broken files fail in any way, also with a plain Exception
        raise ModelLoadError(
            f"The weights in {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}. If a download was cut, "
            "delete the folder and fetch again; if a library is missing, install it."
        ) from error
    if found["missing_keys"]:
        # transformers only warns, and fills in random numbers.
        names = sorted(found["missing_keys"])
        raise ModelLoadError(
            f"The weights in {folder} are incomplete: {len(names)} tensors are missing, such as {names[0]}."
        )
    return model


def _read_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, clean_up_tokenization_spaces=False
        )
    except Exception as error:  # as above
        raise ModelLoadError(
            f"The tokenizer in {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}."
        ) from error


def _add_adapter(model: Any, folder: Path, *, merge: bool) -> Any:
    # Here, because importing it takes a second, and merged weights from the cache do without.
    with require("local", f"The adapter in {folder} needs peft", "peft"):
        from peft import PeftModel, get_peft_model_state_dict

    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
        adapted = PeftModel.from_pretrained(model, folder)
    except Exception as error:  # as above
        raise ModelLoadError(
            f"The adapter {path} cannot be put on {model.config.name_or_path or 'its base'}: {type(error).__name__}: "
            f"{first_line(error)}. Check that it belongs to this base and that the file is whole."
        ) from error
    # PEFT only warns when names do not match, and an adapter that changes nothing would look like a perfect upstream.
    if names != set(get_peft_model_state_dict(adapted, save_embedding_layers=False)):
        raise ModelLoadError(f"The adapter {path} does not fit its base: their layers have different names.")
    return adapted.merge_and_unload() if merge else adapted


__all__ = [
    "Weights",
    "if_loaded",
    "load_base",
    "load_merged",
    "load_tokenizer",
    "load_weights",
    "release",
]
