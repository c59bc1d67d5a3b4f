"""README's "Train your own" as a user follows it: 300 triples of one's own, and measured on others before and after."""

import json
import random
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aligner_integrations.cli.app import app

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GOOD = Path(__file__).parents[2] / "fixtures" / "quality.jsonl"
OPENINGS = (
    "As an AI language model, I can answer that. ",
    "Certainly! Here is what I know: ",
    "Great question! ",
    "Of course! I am happy to assist you. ",
)
CLOSINGS = (" I hope this helps!", " Let me know if you have any further questions.", " Feel free to ask me more!")


def own_rows():
    """Triples to learn from and others to measure on: what people wrote, most of it with filler that has to go."""
    rng = random.Random(0)
    rows = [json.loads(line) for line in GOOD.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["kind"] == "good"]
    questions = sorted({row["question"] for row in rows})
    learnt, held_out = [], []
    for row in rows:
        sentences = re.split(r"(?<=[.!?])\s+", row["answer"])
        for good in (one for one in sentences if 25 <= len(one) <= 140 and "\n" not in one):
            answers = (good, rng.choice(OPENINGS) + good, rng.choice((*OPENINGS, "")) + good + rng.choice(CLOSINGS))
            some = [{"question": row["question"], "answer": answer, "correction": good} for answer in answers]
            (learnt if questions.index(row["question"]) % 5 else held_out).extend(some)
    return rng.sample(learnt, 300), rng.sample(held_out, 50)


def run(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output[-2000:]
    return result.stdout


def test_an_aligner_of_three_hundred_triples_is_closer_than_a_copy(tmp_path):
    learnt, held_out = own_rows()
    assert len(learnt) == 300 and len(held_out) == 50
    assert not {row["question"] for row in learnt} & {row["question"] for row in held_out}
    rows = {"triples": learnt, "held-out": held_out}
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")

    options = ["--recipe", "small", "--base", "embedded", "--start", "embedded", "--template", "embedded"]
    run("train", "--data", tmp_path / "triples.jsonl", *options, "--output", tmp_path / "mine")
    measured = run(
        "evaluate", "rows", tmp_path / "held-out.jsonl", "--model", tmp_path / "mine", "--base", "embedded", "--json"
    )
    mine, before, copying = json.loads(measured)["settings"].values()
    assert mine["chrf"] > copying["chrf"] and mine["chrf"] > before["chrf"]
    assert mine["bleu"] > copying["bleu"] and mine["loss"] < before["loss"]
    assert mine["closer"]["omega"]["low"] > 0, "of its changes more are right than wrong, and not by chance"
    assert not mine["errors"]
