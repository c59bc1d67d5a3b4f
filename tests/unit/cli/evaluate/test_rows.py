"""`aligner evaluate rows`: its options and outputs, and those that all measures share. The numbers: tests/unit/evaluation."""

import csv
import json

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.cli import options
from aligner_integrations.templates import Template
from tests.unit.cli.conftest import GatedBackend, civil

ROWS = [
    {"question": "q1", "answer": "oh shit", "correction": "oh bad"},
    {"question": "q2", "answer": "damn it all", "correction": "it all"},
    {"question": "q3", "answer": "All is well.", "correction": "All is well."},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


def test_table(run, fake, rows):
    fake()
    result = run("evaluate", "rows", rows)
    assert result.exit_code == 0, result.output
    assert "equal to the row's correction" in result.stdout
    line = next(line for line in result.stdout.splitlines() if "equal to" in line)
    assert line.split()[-2:] == ["100.0%", "33.3%"]  # the aligner, copying
    assert result.stderr.startswith("Measured with sacrebleu ")


def test_json_holds_figures_only(run, fake, rows):
    fake()
    result = run("evaluate", "rows", rows, "--json")
    data = json.loads(result.stdout)
    assert data["settings"]["aligner"]["exact"] == {"count": 3, "of": 3}
    assert "shit" not in result.stdout


def test_without_the_gate(run, fake, rows):
    asked = fake(civil, GatedBackend)
    assert json.loads(run("evaluate", "rows", rows, "--json").stdout)["settings"]["aligner"]["exact"]["count"] == 2
    run("evaluate", "rows", rows, "--no-gate", "--json")
    assert [one["gate"] for one in asked] == [True, False]


def test_csv_with_other_columns(run, fake, tmp_path):
    fake()
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["ask", "answer", "gold"], ["q", "oh shit", "oh bad"]])
    result = run(
        "evaluate", "rows", tmp_path / "rows.csv", "--column", "question=ask", "--column", "correction=gold", "--json"
    )
    assert json.loads(result.stdout)["settings"]["aligner"]["exact"] == {"count": 1, "of": 1}
    assert run("evaluate", "rows", tmp_path / "rows.csv", "--column", "question").exit_code == 2


def test_base_is_asked_through_the_aligners_template_if_it_knows_none(run, monkeypatch, rows):
    class Base(FakeBackend):
        name = "base"

    def make(which, *, gate=True, edits=None, on_error=options.OnError.RAISE):
        if which.model == "other":
            known = FakeBackend(lambda prompt: "mine " + prompt)
            known.template = Template("t", "{question}/{answer}")
            return Aligner(backend=known)
        if which.model == "base":
            return Aligner(backend=Base(lambda prompt: prompt.split("##Answer: ")[1]))
        return Aligner(backend=FakeBackend(civil), template="aligner-repo")

    monkeypatch.setattr(options, "make_aligner", make)
    data = json.loads(run("evaluate", "rows", rows, "--base", "base", "--json").stdout)
    assert list(data["settings"]) == ["aligner", "base", "copying"]
    assert data["settings"]["base"]["outcomes"] == {"corrected": 3}
    assert data["settings"]["base"]["errors"] == {}
    data = json.loads(run("evaluate", "rows", rows, "--base", "other", "--json").stdout)
    assert data["settings"]["other"]["errors"] == {}


def test_outputs(run, fake, rows, tmp_path):
    fake()
    page, figures = tmp_path / "page.html", tmp_path / "figures.md"
    result = run("evaluate", "rows", rows, "--limit", 2, "--report", page, "--output", figures)
    assert result.exit_code == 0, result.output
    assert figures.read_text("utf-8").startswith("|  | aligner | copying |\n")
    text = page.read_text("utf-8")
    assert "<del>shit</del>" in text and text.count("<article") == 2
    assert f"To look at: {page}" in result.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--report", "{folder}/none/page.html"], "there is no folder"),
        (["--output", "{folder}/a", "--report", "{folder}/a"], "the same file"),
    ],
)
def test_what_could_not_be_written_is_refused_before_anything_is_measured(run, fake, rows, tmp_path, given, says):
    asked = fake()
    result = run("evaluate", "rows", rows, *(one.format(folder=tmp_path) for one in given))
    assert result.exit_code == 2 and says in result.stderr
    assert not asked


def test_rows_of_another_form_are_a_sentence(run, fake, tmp_path):
    fake()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n')
    result = run("evaluate", "rows", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {path}, line 1: it has the columns ['answer', 'question']")
