"""Attention for heads that share keys and values: the numbers of transformers' own, on a model that stays ordinary."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aligner_integrations.backends.local.attention import NAME, share_heads
from aligner_integrations.backends.local.backend import LocalBackend

pytestmark = pytest.mark.integration


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
    assert model.config._attn_implementation == NAME
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
    assert NAME not in (tmp_path / "config.json").read_text()
    eager = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    share_heads(eager)
    assert eager.config._attn_implementation == "eager"


def test_a_loaded_aligner_has_it(random_model):
    assert LocalBackend(str(random_model), device="cpu").model.config._attn_implementation == NAME
