"""From records to data: what is left out and why, rows to the letter, statistics and card that agree with them."""

import json
import re

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording.records import Record
from aligner_integrations.training.preferences.export import export
from aligner_integrations.training.preferences.filters import Filters
from aligner_integrations.training.preferences.near_duplicates import NearDuplicates
from aligner_integrations.triples import read_triples

LONG = "The weather in the mountains was cold and wet for most of the week, and nobody went out at all"


def record(number, answer, text, outcome=None, question=None, **more):
    outcome = outcome or ("kept" if answer == text else "corrected")
    return Record(
        f"id{number}", 1.8e9 + number, Correction(question or f"Question {number}?", answer, text, outcome), **more
    )


RECORDS = [
    record(0, "It is a bad idea.", "It is a good idea.", model="tiny"),
    record(1, "It is fine.", "It is fine.", model="tiny"),
    record(2, "a failed one", "a failed one", "failed"),
    record(3, "skipped", "skipped", "skipped"),
    record(4, "a refused one", "a refused one", "rejected"),
    record(5, "It was damn cold.", "It was cold.", aligner="abc"),
    record(6, "Mix both and light it.", "I'm sorry, but I can't help with that."),
    record(7, LONG, f"{LONG} today", question="How was it?"),
    record(8, f"{LONG}.", LONG, question="How was it?"),
    record(9, "x" * 3000, "y" * 3000),
    record(10, "vetoed bad", "vetoed good"),
    record(11, "judged bad", "judged good"),
    record(12, "\ud800 bad", "good"),
    record(13, "  same ", "same", "corrected"),
    record(14, " ", "something", "corrected"),
]
FILTERS = Filters(max_characters=5000, veto={"id10"}, judge=lambda r: "judged" not in r.correction.answer)


def rows(folder, name, split="train"):
    return [json.loads(line) for line in (folder / f"{name}.{split}.jsonl").read_text().splitlines()]


def test_rows_to_the_letter(tmp_path):
    found = export(RECORDS, tmp_path / "out", filters=FILTERS)
    assert rows(tmp_path / "out", "preference") == [
        {"prompt": "Question 0?", "chosen": "It is a good idea.", "rejected": "It is a bad idea."},
        {"prompt": "Question 5?", "chosen": "It was cold.", "rejected": "It was damn cold."},
        {"prompt": "How was it?", "chosen": f"{LONG} today", "rejected": LONG},
    ]
    assert rows(tmp_path / "out", "kto")[:3] == [
        {"prompt": "Question 0?", "completion": "It is a good idea.", "label": True},
        {"prompt": "Question 0?", "completion": "It is a bad idea.", "label": False},
        {"prompt": "Question 1?", "completion": "It is fine.", "label": True},
    ]
    assert rows(tmp_path / "out", "sft")[1] == {"prompt": "Question 1?", "completion": "It is fine."}
    assert rows(tmp_path / "out", "triples")[1] == {
        "question": "Question 1?", "answer": "It is fine.", "correction": "It is fine.",
    }  # fmt: skip
    assert len(read_triples(tmp_path / "out" / "triples.train.jsonl")) == 4
    assert len(read_triples(tmp_path / "out" / "preference.train.jsonl")) == 3
    assert found.left_out == {
        "failed": 1, "skipped": 1, "rejected": 1, "declined": 1, "near duplicate": 1, "too long": 1, "veto": 1,
        "judge's veto": 1, "no text": 1, "unchanged": 1, "empty": 1,
    }  # fmt: skip
    assert found.records == len(RECORDS) == sum(found.left_out.values()) + sum(found.outcomes.values())


def test_the_card_and_the_statistics_say_what_is_there(tmp_path):
    export(RECORDS, tmp_path / "out", filters=FILTERS, damaged=["c.jsonl, line 3"], notes=["Ours alone."])
    said = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert said["rows"] == {
        "preference": {"train": 3},
        "kto": {"train": 7},
        "sft": {"train": 4},
        "triples": {"train": 4},
    }
    assert said["aligners"] == {"tiny": 2, "abc": 1, "unnamed": 1} and said["damaged"] == 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Of 15 records 4 are left." in card and "- 1: judge's veto" in card and "Ours alone." in card
    assert "| `preference` | 3 train |" in card and "1 lines were no records" in card
    for path in re.findall(r"path: (\S+)", card):
        assert (tmp_path / "out" / path).exists()
    assert not [f for f in (tmp_path / "out", *(tmp_path / "out").iterdir()) if f.stat().st_mode & 0o077]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_conversational(tmp_path):
    export(RECORDS, tmp_path / "out", filters=FILTERS, conversational=True, formats=["preference", "sft", "kto"])
    assert rows(tmp_path / "out", "preference")[0] == {
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "chosen": [{"role": "assistant", "content": "It is a good idea."}],
        "rejected": [{"role": "assistant", "content": "It is a bad idea."}],
    }
    assert rows(tmp_path / "out", "sft")[0]["completion"] == [{"role": "assistant", "content": "It is a good idea."}]
    assert not (tmp_path / "out" / "triples.train.jsonl").exists()


def test_what_is_left_out_is_up_to_the_filters(tmp_path):
    found = export(RECORDS, tmp_path / "a", filters=Filters(kept=False, declined=True, resemblance=1.0))
    assert found.outcomes == {"corrected": 7}
    assert found.left_out["unchanged"] == 2 and "declined" not in found.left_out


def test_what_is_held_back_is_split_by_question_and_stays_so(tmp_path):
    many = [record(n, f"bad number {n}", f"good number {n}", question=f"q{n // 2}") for n in range(400)]
    export(many, tmp_path / "a", test_share=0.25, formats=["preference"])
    export(many[100:], tmp_path / "b", test_share=0.25, formats=["preference"])
    train, test = ({r["prompt"] for r in rows(tmp_path / "a", "preference", split)} for split in ("train", "test"))
    assert not train & test and len(train | test) == 200 and 20 < len(test) < 80
    assert {r["prompt"] for r in rows(tmp_path / "b", "preference", "test")} <= test


def test_errors(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for wrong in (
        {"output": tmp_path / "full"}, {"formats": ["dpo"]}, {"test_share": 1.0}, {"filters": Filters(veto={"id0", "id1", "id5"})},
    ):  # fmt: skip
        options = {"output": tmp_path / "new", **wrong}
        records = RECORDS[:4] if "filters" in wrong else RECORDS
        with pytest.raises(ConfigurationError):
            export(records, **options)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["full"]
    for wrong in ({"resemblance": 0}, {"max_characters": 0}):
        with pytest.raises(ConfigurationError):
            Filters(**wrong)


def test_near_duplicates():
    seen = NearDuplicates(0.8)
    assert not seen.add(LONG)
    assert seen.add(LONG.upper()) and seen.add(LONG + " long")
    assert not seen.add(" ".join(reversed(LONG.split())))
    assert not seen.add("short") and seen.add("short") and not seen.add("")
    strict = NearDuplicates(1.0)
    assert not strict.add(LONG) and not strict.add(LONG + " long") and strict.add(LONG)
