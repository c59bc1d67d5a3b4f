import gzip
import json
import random
import re

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.errors import ConfigurationError, InvalidTextError
from aligner_integrations.templates import Template
from aligner_integrations.training.data import (
    EncodedTriple,
    Triple,
    batches_by_rows,
    batches_by_tokens,
    edits_of,
    encode_triples,
    identity_pairs,
    read_triples,
)
from tests.unit.support import tiny_tokenizer

ROWS = [
    {"question": "Is it?", "answer": "It is bad.", "correction": "It is good."},
    {"question": "Ünï?", "answer": "a\nb", "correction": "a b"},
]
TRIPLES = [Triple("Is it?", "It is bad.", "It is good."), Triple("Ünï?", "a\nb", "a b")]
TEMPLATE = Template("t", "Q {question} A {answer} E", completion_prefix=" ")
TOKENIZER = tiny_tokenizer()


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(rows))
    return read_triples(path)


# Reading ------------------------------------------------------------------------------------------------------------


def write_jsonl(folder):
    (folder / "rows.jsonl").write_text(lines(ROWS))
    return folder / "rows.jsonl"


def write_gz(folder):
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.write(lines(ROWS))
    return folder / "rows.jsonl.gz"


def write_parquet(folder):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    return folder / "rows.parquet"


def write_folder(folder):
    for number, row in enumerate(ROWS):
        (folder / f"{number}.jsonl").write_text(lines([row]))
    (folder / "README.md").write_text("not data")
    return folder


@pytest.mark.parametrize("write", [write_jsonl, write_gz, write_parquet, write_folder])
def test_triples_from(tmp_path, write):
    source = write(tmp_path)
    assert read_triples(source) == TRIPLES
    assert read_triples(str(source)) == TRIPLES


def message(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it?", "rejected": "It is bad.", "chosen": "It is good."},
        {
            "prompt": [message("system", "Be."), message("user", "Is it?")],
            "rejected": [message("assistant", "It is bad.")],
            "chosen": [message("assistant", "It is good.")],
        },
        {
            "prompt": "Is it?",
            "rejected": [message("user", "Is it?"), message("assistant", "It is bad.")],
            "chosen": [message("user", "Is it?"), message("assistant", "It is good.")],
        },
    ],
    ids=["strings", "conversational", "conversational answers"],
)
def test_preference_pairs(tmp_path, row):
    assert read(tmp_path, row) == TRIPLES[:1]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"question": "q", "answer": "a"}, r"\['answer', 'question'\]"),
        ({"question": "q", "answer": "a", "correction": None}, "not text"),
        ({"question": "q", "answer": 3, "correction": "c"}, "not text"),
        ({"chosen": "c", "rejected": "a"}, "not text"),
        ({"prompt": "q", "chosen": [], "rejected": "a"}, "not text"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, named):
    with pytest.raises(ConfigurationError, match=f"line 1: .*{named}"):
        read(tmp_path, row)


def test_a_later_bad_row_is_named_by_its_number(tmp_path):
    with pytest.raises(ConfigurationError, match="line 2: "):
        read(tmp_path, ROWS[0], {**ROWS[1], "answer": None})


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv"])
def test_a_file_of_another_kind(tmp_path, name):
    (tmp_path / name).write_text("x")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(ConfigurationError, match="no .jsonl"):
            read_triples(source)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
@pytest.mark.parametrize("content", ["{", "", "[1, 2]\n3\n"], ids=["cut", "empty", "lists"])
def test_a_file_that_is_not_what_it_is_called(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=re.escape(name)):
        read_triples(tmp_path / name)


def test_the_second_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.jsonl").write_text(lines([*ROWS, {}]))
    with pytest.raises(ConfigurationError, match=r"b\.jsonl, line 3"):
        read_triples(tmp_path)


def test_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigurationError, match="neither a file here nor a data set"):
        read_triples(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("corrections", "edits"),
    [
        (["you are bad and so is it"] * 3, "rewriting"),  # identity pairs say nothing
        (["you are not good and so is it", "Go on.", "you are not wise and so is it"], "minimal"),
        (["Go on.", "Let us talk of something else.", "you are good and so is it"], "rewriting"),
    ],
)
def test_how_an_aligner_corrects_is_seen_from_its_pairs(corrections, edits):
    assert edits_of([Triple("q", "you are bad and so is it", text) for text in corrections]) == edits


def test_identity_pairs():
    assert identity_pairs(TRIPLES) == [Triple("Is it?", "It is bad.", "It is bad."), Triple("Ünï?", "a\nb", "a\nb")]


# Encoding -----------------------------------------------------------------------------------------------------------


def test_loss_is_on_the_completion_and_its_end_token_only():
    rows = encode_triples(TRIPLES, TOKENIZER, TEMPLATE, 1000).rows
    for triple, row in zip(TRIPLES, rows, strict=True):
        # Exactly what inference reads, then exactly what it should write.
        assert row.prompt == encode_prompt(TOKENIZER, TEMPLATE.render(triple.question, triple.answer))
        assert TOKENIZER.decode(row.completion[:-1]) == " " + triple.correction
        assert row.completion[-1] == TOKENIZER.eos_token_id
        assert len(row) == len(row.prompt) + len(row.completion)


def test_special_token_strings_in_rows_are_plain_text():
    (row,) = encode_triples([Triple("</s>", "<|im_end|>", "a</s>b")], TOKENIZER, TEMPLATE, 1000).rows
    specials = [i for i in row.prompt + row.completion if i in TOKENIZER.all_special_ids]
    assert specials == [TOKENIZER.bos_token_id, TOKENIZER.eos_token_id]


def test_too_long_rows_are_refused_and_counted_never_cut():
    lengths = [len(row) for row in encode_triples(TRIPLES, TOKENIZER, TEMPLATE, 1000).rows]
    assert lengths[0] > lengths[1]
    exact = encode_triples(TRIPLES, TOKENIZER, TEMPLATE, lengths[0])
    assert ([len(row) for row in exact.rows], exact.refused) == (lengths, 0)
    less = encode_triples(TRIPLES * 2, TOKENIZER, TEMPLATE, lengths[0] - 1)
    assert ([len(row) for row in less.rows], less.refused) == ([lengths[1]] * 2, 2)


@pytest.mark.parametrize("correction", ["", " \n"])
def test_an_empty_correction(correction):
    with pytest.raises(ConfigurationError, match="Row 1 has an empty correction"):
        encode_triples([TRIPLES[0], Triple("q", "a", correction)], TOKENIZER, TEMPLATE, 1000)


@pytest.mark.parametrize("triple", [Triple("\ud800", "a", "c"), Triple("q", "a", "c\udfff")])
def test_lone_surrogates(triple):
    with pytest.raises(InvalidTextError, match="Row 1 cannot be encoded"):
        encode_triples([TRIPLES[0], triple], TOKENIZER, TEMPLATE, 1000)


def test_a_tokenizer_without_an_end_token():
    with pytest.raises(ConfigurationError, match="no end token"):
        encode_triples(TRIPLES, tiny_tokenizer(eos=None), TEMPLATE, 1000)


# Batches ------------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


def rows_of(lengths):
    return [EncodedTriple([number], [0] * length) for number, length in enumerate(lengths)]


def flat(batches):
    return sorted(row for batch in batches for row in batch)


@given(LENGTHS, st.integers(1, 200), st.integers())
def test_batches_by_tokens_hold_every_row_once_within_the_budget(lengths, tokens, seed):
    rows = rows_of(lengths)
    batches = batches_by_tokens(rows, tokens, random.Random(seed))
    assert flat(batches) == sorted(rows)
    # A row longer than the budget is alone in its batch.
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= tokens for batch in batches)


def test_batches_by_tokens_fill_the_budget():
    batches = batches_by_tokens(rows_of([9] * 10), 50, random.Random(0))
    assert sorted(map(len, batches)) == [5, 5]


@given(LENGTHS, st.integers(1, 9), st.integers())
def test_batches_by_rows_hold_every_row_once(lengths, size, seed):
    rows = rows_of(lengths)
    batches = batches_by_rows(rows, size, random.Random(seed))
    assert flat(batches) == sorted(rows)
    assert all(len(batch) == size for batch in batches[:-1])


@pytest.mark.parametrize("batches", [batches_by_tokens, batches_by_rows])
def test_batches_differ_between_passes_and_repeat_with_a_seed(batches):
    rows = rows_of([9] * 30)
    first, again, other = (batches(rows, 40, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
