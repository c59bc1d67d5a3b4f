"""Drafting from the answer is lossless: the tokens are those of `generate`, whatever the draft."""

import json
import random
import shutil
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
from transformers.cache_utils import DynamicLayer
from typer.testing import CliRunner

from aligner_integrations.backends import copy_draft
from aligner_integrations.backends.base import Request
from aligner_integrations.backends.copy_draft import decode_with_drafts, find_support
from aligner_integrations.backends.decoding import generate
from aligner_integrations.backends.local import LocalBackend
from aligner_integrations.backends.scoring import forward_answers
from aligner_integrations.backends.weights import Weights
from aligner_integrations.cli.app import app
from tests.integration import tiny

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


def weights_of(model) -> Weights:
    tokenizer = SimpleNamespace(pad_token_id=1)
    return Weights(model, tokenizer, None, 256, [END, OTHER_END], find_support(model, 256))


def request(question: str, answer: str) -> Request:
    return Request(question, answer, tiny.TEMPLATE.render(question, answer), tiny.TEMPLATE.completion_prefix, 24)


def continuations(model, prompts: list[list[int]], limits: list[int]) -> list[tuple[list[int], bool]]:
    """What generate writes."""
    weights = Weights(model, SimpleNamespace(pad_token_id=1), None, 256, [END, OTHER_END])
    return generate(weights, prompts, limits, [threading.Event()] * len(prompts), {})


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
            model,
            [END, OTHER_END],
            1 / 32,
            prompts[part],
            drafts[part],
            limits[part],
            [threading.Event()] * len(prompts[part]),
        )
        assert got == expected[part]
        if rows == 1:
            new = len(got[0][0]) + got[0][1]
            counts["accepted"] += new - counting.passes
            counts["refused"] += counting.tokens - len(prompts[i]) + 1 - new
    return counts


FAMILIES = ("llama", "gemma", "qwen", "smollm2")


@pytest.mark.slow
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


# From the gate's pass on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scored_answer_is_not_verified_again(family):
    model = make(family)
    weights = weights_of(model)
    chance = random.Random(5)
    prompts = [[chance.randrange(WORDS) for _ in range(chance.randrange(1, 40))] for _ in range(24)]
    limits = [LIMIT if i % 3 else 6 for i in range(24)]
    counting = Counting(model)
    for i, (prompt, limit, expected) in enumerate(
        zip(prompts, limits, continuations(model, prompts, limits), strict=True)
    ):
        answer = changed(expected[0], (0.0, 0.1, 0.5)[i % 3], chance)
        forward_answers(weights, [prompt], [[*answer, END]], keep=True)
        verified = weights.take_verified([prompt], [answer])
        assert verified is not None and weights.verified is None
        counting.passes = counting.tokens = 0
        (got,) = decode_with_drafts(
            model, [END, OTHER_END], 1 / 32, [prompt], [answer], [limit], [threading.Event()], verified=verified
        )
        assert got == expected
        if answer == expected[0] or limit == 1:
            assert counting.passes == 0
        assert counting.tokens < len(prompt) + 40 * counting.passes


def test_only_the_answer_asked_for_is_taken(monkeypatch):
    weights = weights_of(make("llama"))
    for prompts, answers in (([[5, 6]], [[7]]), ([[5]], [[7, 8]]), ([[5, 6]] * 2, [[7, 8]] * 2), ([[5, 6]], None)):
        forward_answers(weights, [[5, 6]], [[7, 8, END]], keep=True)
        assert weights.verified is not None
        assert weights.take_verified(prompts, answers) is None
        assert weights.verified is None, "what was not asked for would stay in memory"
    forward_answers(weights, [[5, 6]], [[7, 8, END]])
    assert weights.verified is None
    forward_answers(weights, [[5, 6]] * 2, [[7, 8, END]] * 2, keep=True)
    assert weights.verified is None
    monkeypatch.setattr(copy_draft, "_MOST_WAITING", 100)
    forward_answers(weights, [[5, 6]], [[7, 8, END]], keep=True)
    assert weights.verified is None, "a cache that is too large must not wait"


# Where it does not go ---------------------------------------------------------------------------------------------------


def test_a_cache_that_is_not_cropped_is_found_out(monkeypatch, caplog):
    monkeypatch.setattr(DynamicLayer, "crop", lambda self, count: None)
    with caplog.at_level("INFO", "aligner_integrations"):
        assert find_support(make("llama"), 256) is None
    assert "plain generate" in caplog.text and "after a crop" in caplog.text


def test_a_tiny_window_is_left_to_generate(caplog):
    with caplog.at_level("INFO", "aligner_integrations"):
        assert find_support(make("llama"), 40) is None
    assert "window of 40" in caplog.text


@pytest.mark.parametrize("prepared", [True, False])
def test_a_local_backend_without_support_gives_the_same_texts(tmp_path, random_model, prepared):
    shutil.copytree(random_model, tmp_path / "model")
    drafting, plain = LocalBackend(random_model), LocalBackend(tmp_path / "model", drafts=prepared)
    assert drafting.weights.drafts is not None
    if prepared:
        plain.weights.drafts = None
    requests = [request(f"Why {i}?", f"Because of {i}.") for i in range(6)]
    texts = [backend.complete([r])[0].text for backend in (drafting, plain) for r in requests]
    assert texts[:6] == texts[6:]


def test_sampling_is_left_to_generate(random_model, caplog):
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 10}
    backend = LocalBackend(random_model, generation=sampling)
    wanted = request("Why?", "So.")
    torch.manual_seed(3)
    with caplog.at_level("DEBUG", "aligner_integrations"):
        (sampled,) = backend.complete([wanted])
    assert "do_sample" in caplog.text
    torch.manual_seed(3)
    prompt = backend.tokenizer(wanted.prompt, return_tensors="pt")
    output = backend.model.generate(**prompt, max_new_tokens=24, **sampling)
    expected = backend.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sampled.text == expected


# In a backend -----------------------------------------------------------------------------------------------------------


def test_an_answer_that_stays_costs_one_pass_and_streams_in_one_piece(sure_model):
    backend = LocalBackend(sure_model)
    counting = Counting(backend.model)
    wanted = request("Is it hot?", tiny.SAYS)
    assert backend.score([wanted])[0].max_gap == 0
    assert counting.passes == 1
    (completion,) = backend.complete([wanted])
    assert (completion.text.strip(), completion.finish_reason, counting.passes) == (tiny.SAYS, "stop", 1)
    assert completion.usage.completion_tokens == len(backend.tokenizer(" " + tiny.SAYS)["input_ids"])

    backend.score([wanted])
    assert list(backend.stream(wanted)) == [completion.text]
    # What was scored is used once; from scratch it takes a pass with the prompt and a few more.
    counting.passes = 0
    pieces = list(backend.stream(wanted))
    assert "".join(pieces) == completion.text
    assert 1 <= counting.passes == len(pieces) < completion.usage.completion_tokens


def test_a_stop_ends_it_at_the_next_pass():
    model = make("llama")
    stop, got = threading.Event(), []

    def on_tokens(tokens: list[int]) -> None:
        got.extend(tokens)
        stop.set()

    ((ids, ended),) = decode_with_drafts(model, [], 1.0, [[5, 6, 7]], [[]], [100], [stop], on_tokens)
    assert not ended
    assert ids == got and 1 <= len(ids) < 5


def test_bench_on_a_tiny_model(tmp_path, random_model):
    rows = [{"kind": "good", "question": f"Why {i}?", "answer": f"Because of {i}."} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(
        app, ["bench", "--rows", str(tmp_path / "rows.jsonl"), "-m", str(random_model), "--json"]
    )
    report = json.loads(result.stdout)
    assert list(report["kinds"]["good"]) == ["generate", "prompt lookup", "drafts"]
    assert [way["same"] for way in report["kinds"]["good"].values()] == [3, 3, 3]
