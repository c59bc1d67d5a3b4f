"""An aligner as a GGUF file: its numbers, its tokens and how it is asked are in it; what cannot be written is a sentence."""

import json

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from aligner_integrations.backends.local.gguf_export import export_gguf
from aligner_integrations.backends.local.loading import load_merged
from aligner_integrations.cli.app import app
from aligner_integrations.errors import ConfigurationError, DiskError
from tests.integration import tiny

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def merged(random_model):
    return load_merged(str(random_model))


@pytest.fixture
def export(tmp_path, merged):
    def write(path=tmp_path / "aligner.gguf", **changes):
        model, tokenizer, ends = merged
        given = {"template": tiny.TEMPLATE, "name": "tiny", "kind": "f32", **changes}
        given = {"model": model, "tokenizer": tokenizer, "ends": ends, "path": path} | given
        export_gguf(**given)
        return GGUFReader(path)

    return write


def numbers_of(reader):
    return {one.name: (one.tensor_type.name, dequantize(one.data, one.tensor_type)) for one in reader.tensors}


def told(reader, key):
    return reader.fields[key].contents()


def test_matrices_are_packed_as_asked_and_vectors_are_not(export):
    exact = numbers_of(export())
    half = numbers_of(export(kind="f16"))
    eighth = numbers_of(export(kind="q8_0"))
    assert exact.keys() == half.keys() == eighth.keys() and "output.weight" in exact
    for name, (kind, wanted) in exact.items():
        assert kind == "F32"
        if wanted.ndim == 1:
            assert half[name][0] == eighth[name][0] == "F32" and np.array_equal(half[name][1], wanted)
            continue
        assert half[name][0] == "F16" and np.array_equal(half[name][1], wanted.astype(np.float16).astype(np.float32))
        assert eighth[name][0] == "Q8_0"
        step = np.abs(wanted).reshape(-1, 32).max(1, keepdims=True) / 127  # of a block of 32
        off = np.abs(eighth[name][1] - wanted).reshape(-1, 32)
        assert np.all(off <= 0.6 * step) and off.max() > 0


def test_rows_that_do_not_fit_blocks_stay_in_half_precision(tmp_path, export):
    folder = tiny.write_model(tmp_path / "odd", intermediate=40)
    model, tokenizer, ends = load_merged(str(folder))
    found = numbers_of(export(model=model, tokenizer=tokenizer, ends=ends, kind="q8_0"))
    assert found["blk.0.ffn_down.weight"][0] == "F16" and found["blk.0.ffn_up.weight"][0] == "Q8_0"


def test_an_adapter_is_in_it(adapter, export, merged):
    model, tokenizer, ends = load_merged(str(adapter))
    found = numbers_of(export(model=model, tokenizer=tokenizer, ends=ends))["blk.1.ffn_down.weight"][1]
    name = "model.layers.1.mlp.down_proj.weight"
    assert np.array_equal(found, model.state_dict()[name].numpy())
    assert not np.array_equal(found, merged[0].state_dict()[name].numpy())


def test_the_tokenizer_is_the_aligners(export, merged):
    _, tokenizer, ends = merged
    reader = export()
    tokens, kinds = told(reader, "tokenizer.ggml.tokens"), told(reader, "tokenizer.ggml.token_type")
    assert [tokens.index(word) for word in tiny.SPECIAL] == tokenizer.convert_tokens_to_ids(list(tiny.SPECIAL))
    assert {tokens[i] for i, kind in enumerate(kinds) if kind == 3} == set(tiny.SPECIAL)
    assert len(tokens) == len(tokenizer) and told(reader, "tokenizer.ggml.pre") == "gpt-2"
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert told(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in merges]
    assert [told(reader, "tokenizer.ggml.eos_token_id")] == ends and not told(reader, "tokenizer.ggml.add_bos_token")


def test_how_it_is_asked_stands_in_it_and_no_chat_template(export, merged, random_model):
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    tokenizer.chat_template = "{{ messages }}"
    reader = export(tokenizer=tokenizer)
    assert json.dumps(tiny.TEMPLATE.text) in told(reader, "general.description")
    assert "tokenizer.chat_template" not in reader.fields


def test_two_end_tokens(export, merged):
    _, tokenizer, ends = merged
    other = tokenizer.convert_tokens_to_ids("<|im_end|>")
    reader = export(ends=[*ends, other])
    assert [told(reader, f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")] == [*ends, other]


def test_a_beginning_token_and_tokens_that_stand_for_nothing(tmp_path, export):
    folder = tiny.write_model(tmp_path / "bos", bos=True)
    model, tokenizer, ends = load_merged(str(folder))
    model.resize_token_embeddings(len(tokenizer) + 3)
    reader = export(model=model, tokenizer=tokenizer, ends=ends)
    assert told(reader, "tokenizer.ggml.add_bos_token")
    assert told(reader, "tokenizer.ggml.bos_token_id") == tokenizer.bos_token_id
    assert told(reader, "tokenizer.ggml.token_type")[-4:] == [1, 5, 5, 5]


def test_digits_one_by_one_have_their_own_name(export, random_model):
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    assert told(export(tokenizer=tokenizer), "tokenizer.ggml.pre") == "smollm"


# What cannot be written -------------------------------------------------------------------------------------------------


def test_another_kind_of_model_is_a_sentence(export, tmp_path):
    other = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ConfigurationError, match=r"tiny is a gpt2, and only a llama .* convert_hf_to_gguf\.py"):
        export(model=other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention_bias": True}, "has attention_bias, which"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "positions scaled by 'linear'",
        ),
    ],
)
def test_what_would_be_lost_is_a_sentence(export, merged, change, words):
    tokenizer = merged[1]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    config.update(change)
    with pytest.raises(ConfigurationError, match=words):
        export(model=LlamaForCausalLM(config))


def _cut_otherwise(tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _of_another_kind(tokenizer):
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")


def _too_large(tokenizer):
    tokenizer.add_tokens(["<one more>"])
    return tokenizer


@pytest.mark.parametrize("change", [_cut_otherwise, _of_another_kind, _too_large])
def test_a_tokenizer_that_would_be_another_one_is_a_sentence(export, random_model, change):
    tokenizer = change(AutoTokenizer.from_pretrained(random_model))
    with pytest.raises(ConfigurationError, match="The tokenizer of tiny is not the kind"):
        export(tokenizer=tokenizer)


def test_a_place_that_cannot_be_written_is_a_sentence_and_leaves_nothing(export, tmp_path):
    (tmp_path / "a file").write_text("")
    with pytest.raises(DiskError, match=r"aligner\.gguf cannot be written"):
        export(path=tmp_path / "a file" / "aligner.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


# The command ------------------------------------------------------------------------------------------------------------


def test_the_command_says_how_it_is_served(tmp_path, random_model):
    path = tmp_path / "new" / "tiny.gguf"
    done = CliRunner().invoke(app, ["export", "--gguf", str(path), "-m", str(random_model), "--type", "q8_0"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(path) and told(GGUFReader(path), "general.file_type") == 7
    assert "llama-server -m" in done.stderr and tiny.TEMPLATE.text in done.stderr
    done = CliRunner().invoke(app, ["export", "--gguf", str(path), "-m", str(random_model), "--json"])
    found = json.loads(done.stdout)
    assert found == {"gguf": str(path), "bytes": path.stat().st_size, "type": "f16", "template": "tiny"}
    assert [one.name for one in path.parent.iterdir()] == ["tiny.gguf"]
