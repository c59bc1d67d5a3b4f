"""The cache layer of a batch: what transformers' own holds, without writing it anew at every pass."""

import random

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from aligner_integrations.backends.growing import GrowingLayer

pytestmark = pytest.mark.integration

ROWS, HEADS, SIZE = 6, 2, 4


def append(layers, tokens, rows):
    new = torch.rand(2, rows, HEADS, tokens, SIZE)
    for layer in layers:
        keys, values = layer.update(new[0], new[1])
        assert keys is layer.keys and values is layer.values


def check(plain, growing):
    assert growing.get_seq_length() == plain.get_seq_length()
    assert torch.equal(growing.keys, plain.keys) and torch.equal(growing.values, plain.values)


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_the_plain_layer_holds(seed):
    chance, rows = random.Random(seed), ROWS
    layers = plain, growing = DynamicLayer(), GrowingLayer()
    for _ in range(60):
        append(layers, chance.randint(1, 9), rows)
        check(plain, growing)
        kind = chance.choice(("crop", "crop", "select", "replace", "nothing"))
        if kind == "crop":
            count = chance.randint(0, plain.get_seq_length())
            for layer in layers:
                layer.crop(-count)
        elif kind == "select" and rows > 1:
            kept = torch.tensor(sorted(chance.sample(range(rows), chance.randint(1, rows))))
            rows = len(kept)
            for layer in layers:
                layer.batch_select_indices(kept)
        elif kind == "replace" and plain.get_seq_length():  # as closing holes does
            for layer in layers:
                layer.keys, layer.values = layer.keys.flip(2), layer.values.flip(2)
        if plain.get_seq_length():
            check(plain, growing)


def test_passes_and_crops_write_nothing_anew():
    layer = GrowingLayer()
    append([layer], 20, ROWS)
    begins = layer.keys.data_ptr(), layer.values.data_ptr()
    for _ in range(4):
        append([layer], 3, ROWS)
        layer.crop(-1)
        assert (layer.keys.data_ptr(), layer.values.data_ptr()) == begins
    append([layer], 30, ROWS)
    assert layer.keys.data_ptr() != begins[0]


def test_what_was_read_out_before_a_growth_stays():
    layer = GrowingLayer()
    append([layer], 4, ROWS)
    before = layer.keys
    copy = before.clone()
    append([layer], 50, ROWS)
    assert torch.equal(before, copy)
