"""Drafting from the answer is lossless: the tokens are those of `generate`, whatever the draft."""

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

from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.generation import decode, generate
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.prefix_cache import Prefixes
from aligner_integrations.backends.local.scoring import forward_answers
from aligner_integrations.backends.local.speculative import DraftSupport, decode_with_drafts, find_support
from tests.integration import tiny
from tests.integration.tiny import request

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


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small lose far more by waiting for threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def drafted(model, prompts, answers, limits, *, prefixes=None, ends=(END, OTHER_END), **options):
    """What drafting writes; without `prefixes`, nothing was read before."""
    support = DraftSupport(1 / 32, 1, batches=True)
    kept = Prefixes() if prefixes is None else prefixes
    return decode_with_drafts(
        model, support, ends, prompts, answers, limits, [threading.Event()] * len(prompts), kept, **options
    )


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
        got = drafted(model, prompts[part], drafts[part], limits[part])
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


# What was read before -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 6])
def test_a_scored_answer_is_not_verified_again(family, rows):
    model = make(family)
    if rows > 1 and family == "gemma":
        pytest.skip("batches are left to generate")
    weights = weights_of(model)
    chance = random.Random(5)
    prompts = [[chance.randrange(WORDS) for _ in range(chance.randrange(1, 40))] for _ in range(24)]
    limits = [LIMIT if i % 3 else 6 for i in range(24)]
    expected = continuations(model, prompts, limits)
    answers = [changed(ids, (0.0, 0.1, 0.5)[i % 3], chance) for i, (ids, _) in enumerate(expected)]
    counting = Counting(model)
    for i in range(0, 24, rows):
        part = slice(i, i + rows)
        forward_answers(weights, prompts[part], [[*answer, END] for answer in answers[part]], keep=True)
        counting.passes = counting.tokens = 0
        got = drafted(model, prompts[part], answers[part], limits[part], prefixes=weights.prefixes)
        assert got == expected[part]
        unchanged = [a == ids or limit == 1 for a, (ids, _), limit in zip(answers, expected, limits, strict=True)]
        if all(unchanged[part]):
            assert counting.passes == 0
        assert counting.tokens < 40 * rows * counting.passes + 1, "a prompt went through again"


@pytest.mark.parametrize("family", FAMILIES)
def test_rounds_and_drafts_go_on_from_the_question(family):
    model = make(family)
    prefixes = Prefixes()
    counting = Counting(model)
    chance = random.Random(7)
    question = [chance.randrange(WORDS) for _ in range(50)]
    prompts = [question + [chance.randrange(WORDS) for _ in range(8)] for _ in range(12)]
    fed = []
    for prompt, expected in zip(prompts, continuations(model, prompts, [LIMIT] * 12), strict=True):
        counting.tokens = 0
        assert drafted(model, [prompt], [expected[0]], [LIMIT], prefixes=prefixes) == [expected]
        fed.append(counting.tokens)
    if family == "gemma":  # what is out of the window is forgotten
        assert len(prefixes) == 0
    else:
        assert fed[0] >= 58
        assert max(fed[1:]) <= 8 + LIMIT + 8


@pytest.mark.parametrize("family", ["llama", "qwen", "smollm2"])
def test_what_a_batch_begins_with_goes_through_once(family):
    model = make(family)
    chance = random.Random(8)
    question = [chance.randrange(WORDS) for _ in range(50)]
    prompts = [question + [chance.randrange(WORDS) for _ in range(1 + i % 7)] for i in range(12)]
    expected = continuations(model, prompts, [4] * 12)
    counting = Counting(model)
    assert drafted(model, prompts, [[]] * 12, [4] * 12) == expected
    assert counting.tokens < 50 + 12 * (7 + 4 * 4)


def test_what_is_kept_is_bounded_and_can_be_freed():
    weights = weights_of(make("llama"))
    token = weights.drafts.token_bytes
    assert token == 2 * 2 * 2 * 8 * 8  # keys and values, layers, heads, numbers a head, bytes a number
    weights.prefixes.most_bytes = 100 * token
    for i in range(10):
        forward_answers(weights, [[i] * 20], [[7] * 9 + [END]], keep=True)
        assert weights.prefixes.nbytes <= 100 * token
    assert len(weights.prefixes) == 3, "as many as fit, and those used last"
    assert weights.prefixes.find([9] * 20)[1] == 20 and weights.prefixes.find([6] * 20)[1] == 0
    forward_answers(weights, [[50] * 200], [[7, END]], keep=True)
    assert weights.prefixes.find([50] * 200)[1] == 0, "more than there is room for"
    weights.prefixes.clear()
    assert weights.prefixes.nbytes == 0
    forward_answers(weights, [[i] * 6 for i in range(4)], [[7, 8, END]] * 4, keep=True)
    assert len(weights.prefixes) == 4, "rows of a batch"
    one = weights.prefixes.find([3] * 6)[0]
    assert weights.prefixes.nbytes == one.nbytes >= 4 * 9 * token, "which share their memory"
    weights.prefixes.most_bytes = one.nbytes - 1
    weights.prefixes.add(one)
    assert len(weights.prefixes) == 0
    forward_answers(weights, [[5, 6]], [[7, 8, END]])
    assert len(weights.prefixes) == 0


def test_another_prompt_leaves_what_is_kept_as_it_was():
    model = make("llama")
    prefixes = Prefixes()
    first, second = [5, 6, 7, 8], [5, 6, 9, 9, 9]
    for prompt in (first, second, first, [*first, 3], second[:3]):
        (expected,) = continuations(model, [prompt], [LIMIT])
        assert drafted(model, [prompt], [first], [LIMIT], prefixes=prefixes) == [expected]


# Sampling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6, "top_k": 10, "top_p": 0.8}, {"temperature": 4.0, "top_k": 5, "min_p": 0.05}]
)
@pytest.mark.parametrize("rows", [1, 500])
def test_sampled_text_has_the_distribution_of_generate(options, rows):
    """Chi-square over the pairs of tokens drawn; 0.1% is the chance of a false alarm, and the seed is fixed."""
    model = make("qwen")
    weights = weights_of(model)
    prompt, options = [5, 6, 7], {"do_sample": True, **options}
    (answer, _) = continuations(model, [prompt], [2])[0]  # a draft that is drawn often
    torch.manual_seed(1)

    def draw(drafts: list[int] | None, batch: int, times: int) -> Counter:
        got: Counter = Counter()
        answers = None if drafts is None else [drafts] * batch
        for _ in range(times // batch):
            for ids, _ended in decode(
                weights, [prompt] * batch, answers, [2] * batch, [threading.Event()] * batch, options
            ):
                got[tuple(ids)] += 1
        return got

    weights.drafts = DraftSupport(1 / 32, 1, batches=True)
    times, more = (1000 if rows == 1 else 10_000), 10_000
    counting = Counting(model)
    drawn = draw(answer, rows, times)
    assert counting.passes < 1.97 * (times // rows) or rows > 1, "no draft was ever right"
    plain = draw(None, 500, more)
    common = [pair for pair in plain | drawn if plain[pair] * times / more >= 5]
    rest = [n - sum(counts[pair] for pair in common) for n, counts in ((more, plain), (times, drawn))]
    cells = [(plain[pair], drawn[pair]) for pair in common] + ([tuple(rest)] if sum(rest) else [])
    ratio = (times / more) ** 0.5
    statistic = sum((ratio * a - b / ratio) ** 2 / (a + b) for a, b in cells)
    degrees = len(cells) - 1
    assert degrees > 4
    assert statistic < degrees + 3.1 * (2 * degrees) ** 0.5 + 4, (statistic, degrees)


def test_sampling_with_other_options_is_left_to_generate(random_model, caplog):
    sampling = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.2}
    backend = LocalBackend(random_model, generation=sampling)
    wanted = request("Why?", "So.")
    torch.manual_seed(3)
    with caplog.at_level("DEBUG", "aligner_integrations"):
        (sampled,) = backend.complete([wanted])
    assert "repetition_penalty" in caplog.text
    torch.manual_seed(3)
    prompt = backend.tokenizer(wanted.prompt, return_tensors="pt")
    output = backend.model.generate(**prompt, max_new_tokens=24, **sampling)
    expected = backend.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sampled.text == expected


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

    assert list(backend.stream(wanted)) == [completion.text]
    assert counting.passes == 1
    # From scratch it takes a pass with the prompt and a few more.
    backend.forget()
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

    support = DraftSupport(1.0, 1, batches=True)
    ((ids, ended),) = decode_with_drafts(
        model, support, [], [[5, 6, 7]], [[]], [100], [stop], Prefixes(), on_tokens=on_tokens
    )
    assert not ended
    assert ids == got and 1 <= len(ids) < 5
