"""`aligner records`: shown, filtered, counted; nothing in a text controls the terminal."""

import json

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.recording import Recorder, for_request, read_records


@pytest.fixture
def path(tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl")
    with for_request("run-7"):
        recorder(Correction("Is it?", "It is bad.", "It is good.", "corrected", rounds=1, score=1.5))
    recorder.take(Correction("And now?", "Fine.", "Fine.", "kept", "gate", score=-2.0), aligner="abcdef", model="tiny")
    recorder(Correction("Hm?", "x", "x", "failed", "BackendError: status 500: Hm?"))
    recorder(Correction("\x1b[31mred", "a\u202eb", "[bold]c", "corrected"))
    recorder.close()
    return tmp_path / "c.jsonl"


def test_counts_and_the_newest(run, path):
    result = run("records", path, "--last", 4)
    assert result.exit_code == 0
    assert "[-bad-]{+good+}" in result.stdout and "score 1.50" in result.stdout and "run-7" in result.stdout
    assert "BackendError" in result.stdout and "corrected" in result.stdout and "50.0%" in result.stdout
    assert "\x1b" not in result.stdout and "\\x1b[31mred" in result.stdout and "[bold]c" in result.stdout
    assert "4 records from" in result.stderr and "tiny" in result.stderr


def test_json(run, path):
    found = json.loads(run("records", path, "--json").stdout)
    assert (found["total"], found["matching"], found["damaged"]) == (4, 4, 0)
    assert found["outcomes"][0] == {"outcome": "corrected", "reason": None, "count": 2}
    assert {"outcome": "failed", "reason": "BackendError", "count": 1} in found["outcomes"]
    assert len(found["records"]) == 3 and found["records"][0]["question"] == "And now?"


@pytest.mark.parametrize(
    ("options", "questions"),
    [
        (["--outcome", "corrected"], ["Is it?", "\x1b[31mred"]),
        (["--outcome", "kept", "--outcome", "failed"], ["And now?", "Hm?"]),
        (["--reason", "BackendError"], ["Hm?"]),
        (["--aligner", "tiny"], ["And now?"]),
        (["--aligner", "abc"], ["And now?"]),
        (["--request", "run-7"], ["Is it?"]),
        (["--match", "good"], ["Is it?"]),
        (["--until", "2001-01-01"], []),
        (["--since", "2001-01-01"], ["Is it?", "And now?", "Hm?", "\x1b[31mred"]),
    ],
)
def test_filters_and_writing_what_they_leave(run, path, tmp_path, options, questions):
    result = run("records", path, *options, "--output", tmp_path / "some.jsonl")
    assert result.exit_code == 0, result.output
    assert [r.correction.question for r in read_records(tmp_path / "some.jsonl")] == questions
    assert not (tmp_path / "some.jsonl").stat().st_mode & 0o077


def test_what_is_no_record_is_passed_over_and_said(run, path):
    with path.open("a") as file:
        file.write('{"no": "record"}\n')
    result = run("records", path)
    assert result.exit_code == 0 and "1 lines are no records" in result.stderr and "line 5" in result.stderr


def test_the_page(run, path, tmp_path):
    result = run("records", path, "--reason", "", "--outcome", "corrected", "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "To look at" in result.stderr and "Is it?" in result.stdout
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Outcomes over time (UTC)" in page and "2 of 4 records from" in page and "run-7" in page
    assert "\x1b" not in page and "And now?" not in page
    assert page.rindex("[bold]c") < page.rindex("Is it?")  # the newest first


def test_a_page_without_records(run, path, tmp_path):
    assert run("records", path, "--match", "nowhere", "--report", tmp_path / "page.html").exit_code == 0
    assert "None of 4 records match." in (tmp_path / "page.html").read_text("utf-8")


def test_wrong_uses(run, path, tmp_path):
    assert run("records", tmp_path / "none.jsonl").exit_code == 1
    assert run("records", path, "--outcome", "good").exit_code == 2
    assert run("records", path, "--output", path).exit_code == 1
