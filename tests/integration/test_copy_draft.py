"""Drafting from the answer is lossless: the tokens are those of `generate`, whatever the draft."""

import random
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from aligner_integrations.backends.copy_draft import decode_with_drafts, find_support
from aligner_integrations.backends.decoding import generate

pytestmark = pytest.mark.integration

WORDS, END, OTHER_END = 120, 2, 3
LIMIT = 40
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": 0,
    "eos_token_id": END,
    "pad_token_id": 1,
}


def make(family: str):
    """A tiny model with random weights in float64, whose texts end now and then."""
    torch.manual_seed(11)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=2, tie_word_embeddings=False))
    elif family == "smollm2":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=3, tie_word_embeddings=True, rope_theta=1e5))
    elif family == "qwen":
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_hidden_layers=2, head_dim=8, tie_word_embeddings=False))
    else:  # windows far shorter than the texts, on every second layer
        kinds = ["sliding_attention", "full_attention"] * 2
        config = Gemma3TextConfig(
            **SHAPE, num_hidden_layers=4, head_dim=8, sliding_window=12, layer_types=kinds, tie_word_embeddings=False
        )
        model = Gemma3ForCausalLM(config)
    model = model.double().eval().requires_grad_(False)
    with torch.no_grad():  # else the token just read, which is in the residual stream, decides alone
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 6
            layer.mlp.down_proj.weight *= 6
    model.generation_config = GenerationConfig(pad_token_id=1, eos_token_id=[END, OTHER_END])
    return model


def continuations(model, prompts: list[list[int]], limits: list[int]) -> list[tuple[list[int], bool]]:
    weights = SimpleNamespace(model=model, tokenizer=SimpleNamespace(pad_token_id=1), stop_ids=[END, OTHER_END])
    return generate(weights, prompts, limits, threading.Event(), {})


def changed(tokens: list[int], share: float, chance: random.Random) -> list[int]:
    """The tokens with that share of them replaced, deleted or doubled."""
    result: list[int] = []
    for token in tokens:
        if chance.random() >= share:
            result.append(token)
        elif (way := chance.randrange(3)) == 0:
            result.append(chance.randrange(WORDS))
        elif way == 1:
            result += [token, chance.randrange(WORDS)]
    return result


class Counting:
    """A model that counts what goes through it."""

    def __init__(self, model) -> None:
        self.passes = self.tokens = 0
        self.hook = model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, _, args, kwargs) -> None:
        self.passes += 1
        self.tokens += kwargs["input_ids"].numel()


def check(family: str, prompts_a_family: int, rows: int) -> Counter:
    """Compare with generate; return how many drafted tokens were accepted and how many refused."""
    model = make(family)
    support = find_support(model, 256)
    assert support is not None
    assert support.batches == (family != "gemma")
    chance = random.Random(family)
    prompts = [[chance.randrange(WORDS) for _ in range(chance.randrange(1, 60))] for _ in range(prompts_a_family)]
    limits = [LIMIT if chance.random() < 0.8 else chance.randrange(1, LIMIT) for _ in prompts]
    expected = []
    for i in range(0, len(prompts), 100):
        expected += continuations(model, prompts[i : i + 100], limits[i : i + 100])
    texts = {tuple(ids) for ids, _ in expected}
    assert len(texts) > 0.8 * len(prompts), "the texts hardly depend on the prompts"
    assert {ended for _, ended in expected} == {True, False}

    shares = [(0.0, 0.05, 0.3, 1.0)[i % 4] for i in range(len(prompts))]
    # An answer that is repeated to its end, and one that has an end token in its middle.
    drafts = [
        changed(ids + [END] * (i % 3 == 0), share, chance)
        for i, ((ids, _), share) in enumerate(zip(expected, shares, strict=True))
    ]
    counts: Counter = Counter()
    counting = Counting(model)
    for i in range(0, len(prompts), rows):
        part = slice(i, i + rows)
        counting.passes = counting.tokens = 0
        got = decode_with_drafts(
            model, [END, OTHER_END], 1 / 32, prompts[part], drafts[part], limits[part], threading.Event()
        )
        assert got == expected[part]
        if rows == 1:
            new = len(got[0][0]) + got[0][1]
            counts["accepted"] += new - counting.passes
            counts["refused"] += counting.tokens - len(prompts[i]) + 1 - new
    return counts


FAMILIES = ("llama", "gemma", "qwen", "smollm2")


def test_it_is_the_text_of_generate_token_for_token():
    counts = sum((check(family, 120, 1) for family in FAMILIES), Counter())
    assert counts["accepted"] > 3000 and counts["refused"] > 3000, counts


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_is_the_text_of_generate_for_two_thousand_prompts():
    counts = sum((check(family, 500, 1) for family in FAMILIES), Counter())
    assert counts["accepted"] > 20_000 and counts["refused"] > 20_000, counts


@pytest.mark.parametrize("family", ["llama", "qwen", "smollm2"])
def test_batches_are_the_same(family):
    check(family, 96, 12)
