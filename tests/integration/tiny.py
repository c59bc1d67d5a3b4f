"""Tiny Llamas, tokenizers and adapters as files, made in milliseconds.

Two kinds of model: one with random weights, whose greedy output depends on all of the prompt; and one that says the
same sentence whatever it reads, so that a test knows the right correction.
"""

import json
from pathlib import Path

from aligner_integrations.backends.base import Request
from aligner_integrations.models import AlignerConfig
from aligner_integrations.templates import Template

TEMPLATE = Template("tiny", "Q: {question} A: {answer} Better:", completion_prefix=" ")
SAYS = "The kettle is hot, so wait."
OTHER = "My old advice was wrong."
SPECIAL = ("<s>", "</s>", "<|im_end|>")

_CORPUS = [
    SAYS,
    OTHER,
    *(TEMPLATE.render(q, a) for q in ("What is tea?", "How are you?") for a in ("It is a drink.", "Fine, thanks.")),
]


def request(question: str, answer: str, limit: int | None = 24) -> Request:
    return Request(question, answer, TEMPLATE.render(question, answer), TEMPLATE.completion_prefix, limit)


def write_tokenizer(folder: Path, *, bos: bool = False):
    """A byte-level BPE tokenizer in which each word of the corpus is one token; `bos` puts `<s>` before each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([line for line in _CORPUS for _ in range(3)], trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(
    folder: Path,
    *,
    says: str | None = None,
    loops: bool = False,
    seed: int = 0,
    hidden: int = 32,
    intermediate: int = 64,
    layers: int = 2,
    window: int = 512,
    bos: bool = False,
    config: AlignerConfig | None = None,
) -> Path:
    """Write a model, its tokenizer and its `aligner_config.json`; `loops`: it says the sentence again and never ends."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, bos=bos)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            initializer_range=0.3,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )
    if says is not None:
        _teach(model, tokenizer, says, loops)
    else:
        # Random weights would hardly ever end; like this some completions do and some do not.
        with torch.no_grad():
            model.lm_head.weight[tokenizer.eos_token_id] *= 2
    model.save_pretrained(folder)
    (config or AlignerConfig(TEMPLATE)).save(folder)
    return folder


def _teach(model, tokenizer, says: str, loops: bool) -> None:
    """Make each token's successor depend on that token alone: the prompt's last one starts the sentence."""
    import torch

    start = tokenizer.encode(TEMPLATE.render("q", "a"), add_special_tokens=False)[-1]
    chain = [start, *tokenizer.encode(" " + says, add_special_tokens=False)]
    assert len(set(chain)) == len(chain), "a word of the sentence comes twice, so its successor is not clear"
    chain.append(chain[1] if loops else tokenizer.eos_token_id)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.model.embed_tokens.weight
        embedding.copy_(torch.nn.functional.normalize(embedding, dim=1))
        model.lm_head.weight.zero_()
        for token, successor in zip(chain, chain[1:], strict=False):
            model.lm_head.weight[successor] += 3 * embedding[token]


def write_adapter(
    folder: Path,
    base: Path | str,
    *,
    loaded_base: Path | None = None,
    revision: str | None = None,
    neutral: bool = False,
) -> Path:
    """Write a LoRA adapter with random weights for a base; `loaded_base` is where a base named by id lies."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(loaded_base or base)
    adapter = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=neutral, task_type="CAUSAL_LM"
    )
    get_peft_model(model, adapter).save_pretrained(folder, save_embedding_layers=False)
    written = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": str(base)}))
    AlignerConfig(TEMPLATE, str(base), revision).save(folder)
    return folder
