"""An aligner as one GGUF file for llama.cpp, Ollama and what else reads them: its weights, and the tokenizer as it is here.

Llamas whose tokenizer is a byte-level BPE, which is what the embedded aligner is; what else there is gets a sentence: a file that
loads and writes something else would be worse than none. The numbers in it are read by `gguf.py`, too. No chat template is written:
an aligner takes its own prompt, raw. Its gate stays behind, because no server shows hidden states.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aligner_integrations.errors import ConfigurationError, DiskError, require
from aligner_integrations.templates import Template

with require("local", "Writing a GGUF file needs {missing}", "gguf"):
    from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map
    from gguf.quants import QuantError, quantize

Kind = Literal["f32", "f16", "q8_0"]
"""How the numbers of matrices are packed: 4, 2, or about 1 byte each."""

_KINDS: dict[Kind, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
# How text is cut before words are made of it -> llama.cpp's name for that.
_CUTS: dict[str, list[dict[str, Any]]] = {"gpt-2": [_BYTES], "smollm": [_DIGITS, _BYTES]}


def export_gguf(
    model: Any, tokenizer: Any, ends: Sequence[int], path: Path, *, template: Template, name: str, kind: Kind = "f16"
) -> None:
    """Write a model as a GGUF file; the file is there whole, or not at all.

    Args:
        model: A transformers model, with its adapter merged.
        tokenizer: Its transformers tokenizer.
        ends: Token ids that end a correction.
        path: The file, which is replaced if it is there.
        template: How the aligner is asked; it stands in the file's description.
        name: The aligner's name.
        kind: How matrices are packed; one whose rows do not fit blocks of 32 is kept in f16, vectors in f32.

    Raises:
        ConfigurationError: A model or a tokenizer that cannot be written.
        DiskError: The disk is full, or forbids it.
    """
    config = model.config
    _check(model, name)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    # The writer keeps what it is given and opens the file last, so whatever does not fit is found before.
    writer = GGUFWriter(beside, "llama")
    _write_tokenizer(writer, tokenizer, ends, config.vocab_size, name)
    writer.add_name(name)
    writer.add_description(
        f"An aligner: it corrects an answer to a question. Its prompt goes in raw, and is, as JSON: {json.dumps(template.text)}"
    )
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    packing, file_type = _KINDS[kind]
    writer.add_file_type(file_type)
    _add_tensors(writer, model, packing)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        beside.replace(path)
    except OSError as error:
        raise DiskError(
            f"{error.strerror or error}: {path} cannot be written. Make room, or name another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _check(model: Any, name: str) -> None:
    """Refuse a model of which this would write something else."""
    config = model.config
    if config.model_type != "llama":
        raise ConfigurationError(
            f"{name} is a {config.model_type}, and only a llama can be written as GGUF here. "
            "For others there is llama.cpp's convert_hf_to_gguf.py."
        )
    scaled = (config.rope_parameters or {}).get("rope_type", "default")
    biases = [option for option in ("attention_bias", "mlp_bias") if getattr(config, option, False)]
    quantised = ["quantised weights"] if getattr(config, "quantization_config", None) else []
    odd = [*biases, *quantised, *([] if scaled == "default" else [f"positions scaled by {scaled!r}"])]
    if odd:
        raise ConfigurationError(
            f"{name} has {' and '.join(odd)}, which cannot be written as GGUF here; llama.cpp's convert_hf_to_gguf.py may know how."
        )


def _add_tensors(writer: GGUFWriter, model: Any, packing: GGMLQuantizationType) -> None:
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data: np.ndarray[Any, Any] = tensor.float().cpu().numpy()
        if (woven := heads.get(name.split(".")[-2])) is not None:
            data = _woven(data, woven)
        packed, kind = _packed(data, packing)
        found = names.get_name(name, try_suffixes=(".weight",))
        if found is None:
            raise ConfigurationError(
                f"GGUF has no name for the weights {name!r} of this llama, so it cannot be written."
            )
        writer.add_tensor(found, packed, raw_dtype=kind)


def _woven(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The rows in the order in which llama.cpp rotates them: pairs side by side, not half a head apart; `gguf.py` undoes it."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _packed(
    data: np.ndarray[Any, Any], packing: GGMLQuantizationType
) -> tuple[np.ndarray[Any, Any], GGMLQuantizationType]:
    if data.ndim < 2:
        packing = GGMLQuantizationType.F32
    try:
        return quantize(data, packing), packing
    except QuantError:
        return quantize(data, GGMLQuantizationType.F16), GGMLQuantizationType.F16


# The tokenizer ----------------------------------------------------------------------------------------------------------


def _write_tokenizer(writer: GGUFWriter, tokenizer: Any, ends: Sequence[int], size: int, name: str) -> None:
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    merges, cut = (found.get("model") or {}).get("merges"), _cut(found)
    if merges is None or cut is None or len(tokenizer) > size:
        raise ConfigurationError(
            f"The tokenizer of {name} is not the kind that can be written as GGUF here: a byte-level BPE that cuts text as "
            "GPT-2 or SmolLM do. For others there is llama.cpp's convert_hf_to_gguf.py."
        )
    added = tokenizer.added_tokens_decoder
    kinds = [_kind_of(added.get(i)) for i in range(len(tokenizer))]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    rest = range(len(tokenizer), size)  # rows of the embedding that stand for no token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list([*tokens, *(f"[unused{i}]" for i in rest)])
    writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in rest)])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    end = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    writer.add_eos_token_id(end)
    others = [token for token in ends if token != end]
    for add, token in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(token)
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    writer.add_bos_token_id(end if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
    writer.add_add_bos_token(begins)
    writer.add_add_space_prefix(False)


def _cut(found: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for how a tokenizer, as its file describes it, cuts text; None if it has none."""
    model, before = found.get("model") or {}, found.get("pre_tokenizer") or {}
    odd = [model.get(option) for option in ("byte_fallback", "ignore_merges", "continuing_subword_prefix")]
    if model.get("type") != "BPE" or any(odd) or found.get("normalizer") is not None:
        return None
    steps = before.get("pretokenizers", []) if before.get("type") == "Sequence" else [before]
    plain = [{option: value for option, value in step.items() if option != "trim_offsets"} for step in steps]
    return next((cut for cut, wanted in _CUTS.items() if plain == wanted), None)


def _kind_of(added: Any) -> TokenType:
    if added is None:
        return TokenType.NORMAL
    return TokenType.CONTROL if added.special else TokenType.USER_DEFINED
