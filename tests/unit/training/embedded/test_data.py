"""Splits by question and rows of the embedded recipe, on tiny made-up files."""

import gzip
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.training.embedded import data as embedded
from aligner_integrations.training.embedded.data import (
    QUESTIONS,
    REPORT_QUESTION,
    Mixture,
    Rude,
    civil_references,
    insert_sentence,
    load,
    sentences,
    training_triples,
)

SENTENCE = "It is so."
LONG = " ".join(f"Sentence {i} of a long answer stands here." for i in range(8))


def write(folder, name, rows):
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """60 rude texts, 40 questions of Open-Assistant with two answers each and 40 sums; a few rows to each split."""
    monkeypatch.setattr(embedded, "SIZES", dict.fromkeys(embedded.SIZES, 5))
    rude = [{"toxic": f"this damn thing number {i}", "neutral": [f"this thing number {i}"]} for i in range(60)]
    rude += [{"toxic": row["toxic"].upper().replace(" ", "  "), "neutral": ["again"]} for row in rude[:30]]
    write(tmp_path, "paradetox.jsonl.gz", rude)
    pairs = [{"question": f"Question {i}?", "answer": f"{LONG} {i}"} for i in range(40)]
    again = [{"question": row["question"].upper(), "answer": "Another answer."} for row in pairs]
    write(tmp_path, "oasst_en_100.jsonl.gz", pairs + again)
    write(
        tmp_path, "gsm8k_answers.jsonl.gz", [{"question": f"{i} + 1?", "answer": f"{i + 1}. {LONG}"} for i in range(40)]
    )
    write(tmp_path, embedded.MEASURED, [{"question": "q", "answer": LONG}])
    return tmp_path


def keys(split):
    return [
        {" ".join(rude.toxic.lower().split()) for rude in split.rude},
        {question.lower() for question, _ in split.oasst},
        {question.lower() for question, _ in split.gsm8k},
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_share_no_question_and_lose_no_row(data, seed):
    loaded = load(data, seed)
    parts = [keys(split) for split in (loaded.train, loaded.tune, loaded.report)]
    for train, tune, report in zip(*parts, strict=True):
        assert not train & tune
        assert not train & report
        assert not tune & report
    splits = (loaded.train, loaded.tune, loaded.report)
    assert [sum(len(getattr(s, kind)) for s in splits) for kind in ("rude", "oasst", "gsm8k")] == [90, 80, 40]
    for split in (loaded.tune, loaded.report):
        assert all(5 <= size <= 6 for size in map(len, (split.rude, split.oasst, split.gsm8k)))


def test_splits_depend_on_the_seed_alone(data):
    first, again, other = load(data, 0), load(data, 0), load(data, 1)
    assert first == again
    assert first.report != other.report
    assert first.checksums == other.checksums
    assert all(len(checksum) == 64 for checksum in first.checksums.values())


def test_a_missing_file_is_named(data):
    (data / "gsm8k_answers.jsonl.gz").unlink()
    with pytest.raises(ConfigurationError, match="lacks gsm8k_answers"):
        load(data, 0)


MIXTURE = Mixture(rude=20, passage_sentences=20, civil=5, gsm8k=5, mixed=10)


def test_training_triples(data):
    train = load(data, 0).train
    rows = training_triples(train, 0, MIXTURE)
    assert rows == training_triples(train, 0, MIXTURE)
    assert rows != training_triples(train, 1, MIXTURE)
    # Neither what measures the aligner nor a swear word in a correction.
    assert REPORT_QUESTION not in {row.question for row in rows}
    assert not any("damn" in row.correction.lower() for row in rows)
    good = [row for row in rows if row.question not in QUESTIONS]
    identity = {(row.question, row.answer) for row in good if row.answer == row.correction}
    assert identity >= set(train.oasst)
    assert len([row for row in good if row.answer != row.correction]) == 10


def test_report_question_is_not_a_training_question():
    assert REPORT_QUESTION not in QUESTIONS
    assert len(set(QUESTIONS)) >= 10


def test_civil_references_are_clean_and_the_smallest_edit_comes_first():
    rude = Rude("this damn thing works", ("it is fine", "this damn thing", " ", "this thing works"))
    assert civil_references(rude) == ["this thing works", "it is fine"]


@pytest.mark.parametrize(
    ("answer", "place", "result"),
    [
        ("One. Two.", 0, "It is so. One. Two."),
        ("One. Two.", 1, "One. It is so. Two."),
        ("One.\n\nTwo!", 1, "One.\n\nIt is so. Two!"),
        ("One. Two.", 2, "One. Two. It is so."),
        ("One. Two.", 9, "One. Two. It is so."),
        ("One. ", 9, "One. It is so."),
        ("", 0, "It is so."),
    ],
)
def test_insert_sentence(answer, place, result):
    assert insert_sentence(answer, place, SENTENCE) == result


@given(st.text("ab .!?\n", max_size=30), st.integers(0, 12))
def test_an_inserted_sentence_leaves_the_rest_alone(answer, place):
    whole = insert_sentence(answer, place, "X")
    head, found, tail = whole.partition("X")
    assert found
    assert answer in {head + tail, head + tail[1:], head[:-1] + tail, head[:-1] + tail[1:]}


def test_sentences():
    assert sentences("One. Two!  Three?\nFour") == ["One.", "Two!", "Three?", "Four"]


def test_mixed_rows_differ_in_the_inserted_sentence_only():
    rng, rude = random.Random(0), Rude("damn it.", ("oh no.",))
    for _ in range(20):
        row = embedded.mixed(rng, ("q", "One. Two. Three."), rude, "oh no.")
        assert row.answer.replace("damn it.", "oh no.") == row.correction
        assert row.answer.count("damn it.") == 1
        assert [s for s in sentences(row.answer) if s != "damn it."] == ["One.", "Two.", "Three."]
