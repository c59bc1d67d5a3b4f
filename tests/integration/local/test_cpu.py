"""What makes a CPU fast, on a model that stays ordinary.

Packed linear layers: float32's numbers, plain parameters, nothing stale. Attention for heads that share keys and values: the
numbers of transformers' own.
"""

import copy
import io

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from aligner_integrations.backends.local import cpu
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.cpu import GROUPED, PackedLinear, pack, share_heads

pytestmark = pytest.mark.integration


@pytest.fixture
def plain():
    torch.manual_seed(3)
    return nn.Linear(96, 80).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 33, 256])
def test_numbers_are_those_of_float32(bias, tokens):
    torch.manual_seed(tokens)
    layer = nn.Linear(96, 80, bias=bias).requires_grad_(False)
    x = torch.randn(2, tokens, 96)
    assert torch.allclose(PackedLinear(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_changed_weight_is_packed_again(plain):
    packed, x = PackedLinear(plain), torch.randn(4, 96)
    packed(x)
    plain.weight.mul_(2)
    assert torch.allclose(packed(x), plain(x), atol=1e-5)
    packed.weight = nn.Parameter(torch.randn(80, 96), requires_grad=False)
    assert torch.allclose(packed(x), nn.functional.linear(x, packed.weight, plain.bias), atol=1e-5)


def test_what_it_cannot_do_is_done_plainly(plain):
    packed = PackedLinear(plain)
    assert packed(torch.zeros(0, 96)).shape == (0, 80)
    double = PackedLinear(copy.deepcopy(plain).double())
    assert double(torch.randn(2, 96, dtype=torch.float64)).dtype == torch.float64
    packed.weight.requires_grad_(True)
    packed(torch.randn(2, 96)).sum().backward()
    assert packed.weight.grad is not None


def test_copies_and_files_hold_plain_weights(plain):
    packed, x = PackedLinear(plain), torch.randn(4, 96)
    wanted = packed(x)
    assert torch.equal(copy.deepcopy(packed)(x), wanted)
    file = io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    assert torch.load(file)["weight"].equal(plain.weight)


def test_a_loaded_aligner_is_packed_and_ordinary(random_model, tmp_path):
    model = LocalBackend(str(random_model), device="cpu").model
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert layers and all(type(layer) is PackedLinear for layer in layers)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-4)
    assert all(type(layer) is not PackedLinear for layer in again.modules())


@pytest.mark.parametrize("fault", [RuntimeError("no such operator"), None])
def test_a_torch_that_cannot_pack_is_left_alone(plain, monkeypatch, fault):
    def broken(self, x):
        if fault:
            raise fault
        return torch.zeros(*x.shape[:-1], self.out_features)

    monkeypatch.setattr(PackedLinear, "forward", broken)
    model = nn.Sequential(plain)
    pack(model)
    assert type(model[0]) is nn.Linear


def test_large_models_and_other_dtypes_are_left_alone(plain, monkeypatch):
    half = nn.Sequential(copy.deepcopy(plain).bfloat16())
    pack(half)
    assert type(half[0]) is nn.Linear
    monkeypatch.setattr(cpu, "_MOST_BYTES", 100)
    large = nn.Sequential(plain)
    pack(large)
    assert type(large[0]) is nn.Linear


def test_packing_draws_no_random_numbers(plain):
    torch.manual_seed(5)
    wanted = torch.randn(1)
    torch.manual_seed(5)
    pack(nn.Sequential(plain))
    assert torch.equal(torch.randn(1), wanted)


# Attention ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[(6, 2), (4, 4), (4, 1)], ids=["shared by three", "not shared", "shared by all"])
def model(request):
    heads, shared = request.param
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=8 * heads,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval().double().requires_grad_(False)


def passes(model):
    """Logits of a batch with padding, a draft after it, one token more, and a row without padding."""
    ids = torch.arange(24).reshape(2, 12) % 59
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    first = model(ids, attention_mask=mask, use_cache=True)
    found, cache = [first.logits[0, 5:], first.logits[1]], first.past_key_values
    for tokens in (4, 1):
        mask = torch.cat([mask, torch.ones(2, tokens, dtype=torch.long)], 1)
        more = model(torch.full((2, tokens), 7), attention_mask=mask, past_key_values=cache, use_cache=True)
        found += list(more.logits)
    return [*found, model(ids[1:]).logits[0]]


def test_numbers_are_those_of_transformers(model):
    wanted = passes(model)
    share_heads(model)
    assert model.config._attn_implementation == GROUPED
    for mine, theirs in zip(passes(model), wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_keys_are_not_repeated_for_a_mask(model, monkeypatch):
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    masked = set()
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, **options):
        if options.get("attn_mask") is not None:
            masked.add((query.shape[1], key.shape[1]))
        return real(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    passes(model)
    assert (heads, heads) in masked
    masked.clear()
    share_heads(model)
    passes(model)
    assert masked == {(shared, shared)}


def test_generate_saving_and_other_attentions_are_as_ever(model, tmp_path):
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    wanted = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    share_heads(model)
    assert torch.equal(
        model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0), wanted
    )
    model.save_pretrained(tmp_path)
    assert GROUPED not in (tmp_path / "config.json").read_text()
    eager = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    share_heads(eager)
    assert eager.config._attn_implementation == "eager"


def test_a_loaded_aligner_has_shared_heads(random_model):
    assert LocalBackend(str(random_model), device="cpu").model.config._attn_implementation == GROUPED
