"""The cache layer of rows on their way: what transformers' own holds, without writing it anew at every pass."""

import copy
import random

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from aligner_integrations.backends.local.kv_cache import GrowingLayer

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
    layers = plain, growing = DynamicLayer(), GrowingLayer(DynamicLayer())
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
    layer = GrowingLayer(DynamicLayer())
    append([layer], 20, ROWS)
    begins = layer.keys.data_ptr(), layer.values.data_ptr()
    for _ in range(4):
        append([layer], 3, ROWS)
        layer.crop(-1)
        assert (layer.keys.data_ptr(), layer.values.data_ptr()) == begins
    append([layer], 30, ROWS)
    assert layer.keys.data_ptr() != begins[0]


def test_what_was_read_out_before_a_growth_stays():
    layer = GrowingLayer(DynamicLayer())
    append([layer], 4, ROWS)
    before = layer.keys
    copy = before.clone()
    append([layer], 50, ROWS)
    assert torch.equal(before, copy)


@pytest.mark.parametrize("kind", [DynamicLayer, lambda: GrowingLayer(DynamicLayer())])
def test_those_who_go_on_from_one_beginning_leave_it_and_each_other(kind):
    beginning = kind()
    append([beginning], 20, ROWS)
    beginning.crop(-5)  # behind what counts there is room in all that share it
    kept = beginning.keys.clone(), beginning.values.clone()
    first, second = GrowingLayer(beginning), copy.copy(GrowingLayer(beginning))
    append([first], 3, ROWS)
    writes = first.keys.clone()
    append([second], 4, ROWS)
    append([second], 4, ROWS)
    assert torch.equal(first.keys, writes)
    assert torch.equal(beginning.keys, kept[0]) and torch.equal(beginning.values, kept[1])
    assert torch.equal(second.keys[:, :, :15], kept[0])


def test_a_copy_leaves_the_room_to_its_owner():
    owner = GrowingLayer(DynamicLayer())
    append([owner], 20, ROWS)
    other = copy.copy(owner)
    append([other], 1, ROWS)
    written = other.keys.clone()
    append([owner], 1, ROWS)
    assert torch.equal(other.keys, written)
