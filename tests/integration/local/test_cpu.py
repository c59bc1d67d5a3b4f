"""Packed linear layers: float32's numbers, plain parameters, nothing stale."""

import copy
import io

import pytest
import torch
from torch import nn

from aligner_integrations.backends.local import cpu as packing
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.local.cpu import PackedLinear, pack

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
    monkeypatch.setattr(packing, "_MOST_BYTES", 100)
    large = nn.Sequential(plain)
    pack(large)
    assert type(large[0]) is nn.Linear


def test_packing_draws_no_random_numbers(plain):
    torch.manual_seed(5)
    wanted = torch.randn(1)
    torch.manual_seed(5)
    pack(nn.Sequential(plain))
    assert torch.equal(torch.randn(1), wanted)
