"""What is asked and what is held out: the same each time, by whole groups, nothing of one in the other."""

import gzip
import json

import pytest

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.training.bootstrap.paradetox import write_questions
from aligner_integrations.training.bootstrap.questions import read_material
from aligner_integrations.training.bootstrap.recipe import BootstrapRecipe


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions(tmp_path):
    return write(
        tmp_path / "q.jsonl", [{"question": f"q{n}", "reference": f"r{n}", "group": f"g{n // 3}"} for n in range(90)]
    )


def test_groups_are_held_out_together(questions, tmp_path):
    good = write(tmp_path / "good.jsonl", [{"question": f"g{n // 2}", "answer": f"a{n}"} for n in range(20)])
    neutral = write(tmp_path / "n.jsonl", [{"text": "A cat."}, {"text": "A dog."}])
    found = read_material(questions, held_out=20, good=good, neutral=neutral, fluent=5)
    assert 20 <= len(found.held_out) < 23 and len(found.held_out) + len(found.fresh) == 90
    assert not {q.group for q in found.held_out} & {q.group for q in found.fresh}
    assert len(found.fluent) == 5 and not {g.question for g in found.fluent} & {g.question for g in found.good}
    assert found.neutral == ["A cat.", "A dog."]
    assert read_material(questions, held_out=20, good=good, neutral=neutral, fluent=5) == found


@pytest.mark.parametrize("row", [{"question": ""}, {"question": 3}, {}, {"question": "q", "group": 1}])
def test_damaged_rows(row, tmp_path):
    with pytest.raises(ConfigurationError, match="line 1"):
        read_material(write(tmp_path / "q.jsonl", [row]), held_out=1)


def test_too_few(questions):
    with pytest.raises(ConfigurationError, match="too few"):
        read_material(questions, held_out=90)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"objective": "ppo"},
        {"method": "qlora"},
        {"temperature": 0},
        {"good_share": -1},
        {"judged_by": "me"},
    ],
)
def test_recipes_that_make_no_sense(wrong):
    with pytest.raises(ConfigurationError):
        BootstrapRecipe(**wrong)


def test_questions_over_paradetox(tmp_path):
    rude = [
        {"toxic": f"this damn sentence number {n} is really very rude", "neutral": [f"this sentence {n} is rude"]}
        for n in range(600)
    ]
    good = [{"history": [], "question": f"q{n}", "answer": "word " * 20} for n in range(10)]
    good += [
        {"history": ["x"], "question": "q", "answer": "word " * 20},
        {"history": [], "question": "q", "answer": "no"},
    ]
    for name, rows in (("paradetox.jsonl.gz", rude), ("oasst_en_100.jsonl.gz", good)):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    write_questions(tmp_path, tmp_path / "a")
    write_questions(tmp_path, tmp_path / "b")
    for name in ("questions.jsonl", "good.jsonl", "neutral.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert not (tmp_path / "a" / name).stat().st_mode & 0o077
    asked = [json.loads(line) for line in (tmp_path / "a" / "questions.jsonl").read_text().splitlines()]
    copied = [json.loads(line)["text"] for line in (tmp_path / "a" / "neutral.jsonl").read_text().splitlines()]
    assert len(asked) == 100 and len(copied) == 500 and not {row["reference"] for row in asked} & set(copied)
    assert len({row["question"].split(":")[0] for row in asked}) == 3
    assert len((tmp_path / "a" / "good.jsonl").read_text().splitlines()) == 10
    with pytest.raises(ConfigurationError, match="lacks"):
        write_questions(tmp_path / "a", tmp_path / "c")
