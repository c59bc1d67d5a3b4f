"""`aligner evaluate quality`: its options and outputs. The numbers themselves: tests/unit/evaluation."""

import json

import pytest

from aligner_integrations.evaluation.quality import QualityReport

from ..conftest import GatedBackend, civil

ROWS = [
    {"kind": "rude", "source": "p", "question": "q", "answer": "oh shit", "references": ["oh bad"]},
    {"kind": "rude", "source": "p", "question": "q", "answer": "damn it all", "references": ["it all"]},
    {"kind": "good", "source": "oasst", "question": "q", "answer": "All is well."},
    {"kind": "mixed", "source": "p", "question": "q", "answer": "Yes. You shit. No.", "inserted": "You shit."},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


def cells(result, label):
    return next(line.split(label)[1].split() for line in result.stdout.splitlines() if label in line)


def test_table(run, fake, rows):
    fake(civil, GatedBackend)
    result = run("evaluate", "quality", "--rows", rows)
    assert result.exit_code == 0
    # The fake's gate knows "damn" only: one rude answer and the mixed one stay as they are.
    assert cells(result, "2 rude answers: still profane") == ["50.0%", "100.0%", "0.0%"]
    assert cells(result, "1 good answers: unchanged") == ["100.0%", "100.0%"]
    assert cells(result, "profanity gone") == ["0.0%", "0.0%"]
    assert result.stderr.startswith("Measured with better-profanity 0.7.0, sacrebleu ")


def test_both_stand_side_by_side(run, fake, rows):
    asked = fake(civil, GatedBackend)
    result = run(
        "evaluate", "quality", "--rows", rows, "--both", "--marked", "--json", "-m", "some/model", "--template", "paper"
    )
    # In a prompt of another template the fake finds no answer, and that is an error to be counted.
    report = QualityReport.from_dict(json.loads(result.stdout))
    assert list(report.settings) == ["gate", "no gate", "marked edits"]
    assert report.settings["no gate"].errors == {"BackendError": 4}
    assert [(a["which"].model, a["which"].template, a["gate"], a["edits"]) for a in asked] == [
        ("some/model", "paper", True, None),
        ("some/model", "paper", False, "all"),
        ("some/model", "paper", True, "marked"),
    ]


def test_without_the_gate(run, fake, rows):
    fake(civil, GatedBackend)
    report = QualityReport.from_dict(
        json.loads(run("evaluate", "quality", "--rows", rows, "--no-gate", "--json").stdout)
    )
    assert list(report.settings) == ["no gate"]
    assert report.settings["no gate"].rude.profane.count == 0
    assert report.settings["no gate"].mixed.profanity_gone.count == 1


def test_an_aligner_without_gate_is_not_said_to_have_one(run, fake, rows):
    fake(civil)
    assert list(json.loads(run("evaluate", "quality", "--rows", rows, "--json").stdout)["settings"]) == ["no gate"]
    result = run("evaluate", "quality", "--rows", rows, "--both")
    assert result.exit_code == 1
    assert "no gate of its own" in result.stderr


def test_both_and_no_gate_exclude_each_other(run, fake, rows):
    fake(civil)
    assert run("evaluate", "quality", "--rows", rows, "--both", "--no-gate").exit_code == 2


def test_limit_takes_the_first_rows_of_each_kind(run, fake, rows):
    fake(civil)
    data = json.loads(run("evaluate", "quality", "--rows", rows, "--limit", 1, "--json").stdout)
    assert data["rows"] == {"good": 1, "mixed": 1, "rude": 1}
    assert run("evaluate", "quality", "--rows", rows, "--limit", 0).exit_code == 2


def test_output_as_json_and_as_markdown(run, fake, rows, tmp_path):
    fake(civil)
    run("evaluate", "quality", "--rows", rows, "--output", tmp_path / "report.json")
    report = QualityReport.from_dict(json.loads((tmp_path / "report.json").read_text("utf-8")))
    assert report.settings["no gate"].good.unchanged.count == 1
    run("evaluate", "quality", "--rows", rows, "--output", tmp_path / "report.md")
    assert (
        (tmp_path / "report.md")
        .read_text("utf-8")
        .startswith("|  | no gate | copying | human |\n| --- | ---: | ---: | ---: |\n")
    )


def test_bad_rows_are_a_sentence(run, fake, tmp_path):
    fake()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"kind": "odd\\u001b", "question": "q", "answer": "a"}\n', "utf-8")
    result = run("evaluate", "quality", "--rows", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {path}, line 1: its kind is 'odd\\x1b'")


def test_escape_sequences_in_a_source_do_not_reach_the_terminal(run, fake, tmp_path):
    fake()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"kind": "good", "source": "o\\u001b[31m[bold]x", "question": "q", "answer": "a"}\n', "utf-8")
    result = run("evaluate", "quality", "--rows", path)
    assert "\x1b" not in result.output
    assert r"o\x1b[31m[bold]x" in result.stdout
