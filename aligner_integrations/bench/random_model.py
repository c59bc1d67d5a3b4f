"""A model with random weights in the shape of the paper's aligner, made in a minute from nothing but this package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aligner_integrations.errors import require
from aligner_integrations.models import AlignerConfig
from aligner_integrations.templates import TEMPLATES
from aligner_integrations.training.embedded.data import WRITTEN


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a Llama.

    Attributes:
        hidden: Width.
        intermediate: Width inside of a layer.
        layers: How many.
        heads: Of attention.
        window: Tokens of context.
        vocabulary: Tokens.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    window: int
    vocabulary: int


ALIGNER_7B = Shape(4096, 11008, 32, 32, 2048, 32001)
MINIATURE = Shape(128, 344, 4, 4, 2048, 4096)


def answers() -> list[tuple[str, str]]:
    """Return the questions and answers that this package carries: sixty good ones."""
    rows = [json.loads(line) for line in WRITTEN.read_text(encoding="utf-8").splitlines()]
    return [(row["question"], row["answer"]) for row in rows]


def write_model(folder: Path, shape: Shape, *, device: str, dtype: torch.dtype, seed: int = 0) -> Path:
    """Write a model, a tokenizer of its own, and its `aligner_config.json`; return the folder.

    Args:
        folder: Where to.
        shape: Its shape.
        device: Where the weights are drawn.
        dtype: Of the weights.
        seed: Which ones.
    """
    with require("local", "A random model needs {missing}", "tokenizers", "transformers"):
        from transformers import LlamaConfig, LlamaForCausalLM
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(shape.vocabulary)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.window,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        dtype=dtype,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    AlignerConfig(TEMPLATES["aligner-7b"]).save(folder)
    return folder


def _tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE of the answers; what is missing to the size of the vocabulary are words that nobody writes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, 3000),
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([text for pair in answers() for text in pair], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    missing = vocabulary - bpe.get_vocab_size()
    bpe.add_tokens([f"\ue000{number}\ue001" for number in range(missing)])
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **ends)
