"""Four commands from a prompted chat model to an aligner of one's own: record, export, train with a gate, measure."""

import json

import pytest
from typer.testing import CliRunner

from aligner_integrations import Aligner
from aligner_integrations.cli.app import app
from aligner_integrations.recording import read_records
from tests.integration.training.test_training import triples
from tests.unit.backends.remote.stub import Stub, said

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROWS = {row.question: row for row in triples(900)}


def teacher(call):
    """A chat model that corrects as it is told: it finds question and answer in what it is asked."""
    if call.method == "GET":
        return said({"data": [{"id": "teacher"}]})
    asked = call.body["messages"][-1]["content"]
    row = next(row for question, row in ROWS.items() if question in asked and row.answer in asked)
    choice = {"index": 0, "message": {"role": "assistant", "content": row.correction}, "finish_reason": "stop"}
    return said({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}})


def run(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output[-2000:]
    return result.stdout


def test_a_teacher_becomes_a_small_aligner(random_model, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"question": r.question, "answer": r.answer}) + "\n" for r in ROWS.values()))
    with Stub(teacher) as server:
        run(
            "corpus",
            answers,
            tmp_path / "corrected.jsonl",
            "--chat-model",
            f"{server.url}/v1",
            "--model",
            "teacher",
            "--record",
            tmp_path / "teacher.jsonl",
        )
    assert {record.model for record in read_records(tmp_path / "teacher.jsonl")} == {"teacher"}
    found = json.loads(
        run(
            "preferences",
            tmp_path / "teacher.jsonl",
            tmp_path / "data",
            "--test-share",
            0.05,
            "--resemblance",
            1,
            "--json",
        )
    )
    assert found["outcomes"]["corrected"] > 350 and found["outcomes"]["kept"] > 150
    run(
        "train", "--data", tmp_path / "data" / "triples.train.jsonl", "--base", random_model, "--output", tmp_path / "mine",
        "--method", "lora", "--epochs", 1, "--identity-share", 0, "--template", "Q: {question} A: {answer} Better:",
    )  # fmt: skip
    assert (tmp_path / "mine" / "gate.json").exists() and Aligner(tmp_path / "mine").backend.gate is not None
    measured = run(
        "evaluate", "rows", tmp_path / "data" / "triples.test.jsonl", "--model", tmp_path / "mine", "--limit", 8, "--json",
        "--report", tmp_path / "measured.html",
    )  # fmt: skip
    assert json.loads(measured) and (tmp_path / "measured.html").stat().st_size > 5_000
