"""Splits of the embedded recipe: by question, by behaviour, by the sentence without its group."""

import re

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.training.embedded.sources import load

KEYS = {
    "rude": lambda row: " ".join(row.toxic.lower().split()),
    "hateful": lambda row: re.sub("women|immigrants", "", row.answer),
    "questions": str.lower,
}
KINDS = ("rude", "oasst", "gsm8k", "harmless", "abusive", "chat", "hateful", "neutral", "questions", "facts")


def splits(loaded):
    return loaded.train, loaded.tune, loaded.report


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_splits_share_no_question_and_none_is_empty(folder, seed, kind):
    key = KEYS.get(kind, lambda row: row.question.lower() or row.answer)
    train, tune, report = ({key(row) for row in getattr(split, kind)} for split in splits(load(folder, seed)))
    assert train and tune and report
    assert not train & tune and not train & report and not tune & report


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_harmful_answers_are_split_by_behaviour(folder, seed):
    parts = [
        {row.kind for row in (*split.harmful, *split.refusals)} - {"xstest", "star1"}
        for split in splits(load(folder, seed))
    ]
    assert [len(part) for part in parts] == [10, 5, 5]
    assert len(set.union(*parts)) == 20


def test_no_row_is_lost(folder):
    parts = splits(load(folder, 0))
    counts = [sum(len(getattr(split, kind)) for split in parts) for kind in ("rude", "oasst", "gsm8k", "questions")]
    assert counts == [90, 80, 40, 30]
    assert sum(len(split.harmful) for split in parts) == 40 + 10  # jailbroken, and XSTest's complied ones
    assert sum(len(split.refusals) for split in parts) == 20 + 20 + 30


def test_splits_depend_on_the_seed_alone(folder):
    first, again, other = load(folder, 0), load(folder, 0), load(folder, 1)
    assert first == again
    assert first.report != other.report
    assert first.checksums == other.checksums
    assert all(len(checksum) == 64 for checksum in first.checksums.values())


@pytest.mark.parametrize("name", ["gsm8k_answers", "jailbreakbench", "alpacaeval_aligner2b_qwen72b"])
def test_a_missing_file_is_named(folder, name):
    (folder / f"{name}.jsonl.gz").unlink()
    with pytest.raises(ConfigurationError, match=f"lacks {name}"):
        load(folder, 0)
