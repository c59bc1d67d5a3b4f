"""`aligner score`: one answer, a file of them, and aligners that have no score."""

import json

import pytest

from aligner_integrations.backends.base import FakeBackend
from tests.unit.support import score_of


class Judging(FakeBackend):
    """Objects to the word "damn", with a mark of 9 where the threshold is 2."""

    gate = 2.0
    can_score = True

    def score(self, requests):
        return [score_of(request.answer, marked=("damn",), probe=True) for request in requests]


class Preferring(FakeBackend):
    """Has no gate; would write something else for the word "damn"."""

    can_score = True

    def score(self, requests):
        return [score_of(r.answer, gap=9.0 if "damn" in r.answer else 0.0, marked=("damn",)) for r in requests]


@pytest.mark.parametrize("backend", [Judging, Preferring])
def test_one_answer(run, fake, backend):
    fake(backend=backend)
    result = run("score", "q", "the damn thing", "--json")
    data = json.loads(result.stdout)
    assert (data["keep"], data["score"], data["threshold"]) == (False, 9.0, 2.0 if backend is Judging else 0.0)
    assert [one["text"] for one in data["tokens"]] == ["the", "damn", "thing"]
    assert json.loads(run("score", "q", "the thing", "--json").stdout)["keep"] is True


def test_where_it_objects_is_seen_without_colours_too(run, fake):
    fake(backend=Judging)
    result = run("score", "q", "the damn\x1b thing", env={"NO_COLOR": "1"})
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "the damn\\x1b thing"
    assert run("score", "q", "the damn thing").stdout.splitlines()[0] == "the [damn] thing"
    assert "kept by the gate" in result.stdout


def test_answer_on_standard_input(run, fake):
    fake(backend=Judging)
    assert json.loads(run("score", "q", "--json", input="damn\n").stdout)["keep"] is False


def test_a_file(run, fake, tmp_path):
    fake(backend=Judging)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "q", "answer": "damn it", "id": 7}\n{"question": "q", "answer": "well"}\n')
    assert run("score", "--input", source, "--output", output).exit_code == 0
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [(row.get("id"), row["score"], row["keep"]) for row in rows] == [(7, 9.0, False), (None, 0.0, True)]


def test_a_row_that_fails_costs_no_other(run, fake, tmp_path):
    fake(backend=Judging)
    source = tmp_path / "in.jsonl"
    source.write_text('{"question": "q", "answer": "\\ud800"}\n{"question": "q", "answer": "well"}\n')
    result = run("score", "--input", source)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert rows[0]["error"]["type"] == "InvalidTextError" and rows[1]["keep"] is True
    assert "2 rows, 1 of them failed" in result.stderr


def test_no_score(run, fake):
    fake()
    result = run("score", "q", "a")
    assert result.exit_code == 1
    assert "probabilities" in result.stderr


@pytest.mark.parametrize(
    "given", [["--input", "x", "q"], ["q", "a", "--output", "y"], ["--input", "x", "--output", "x"]]
)
def test_options_that_do_not_go_together(run, fake, given):
    fake()
    assert run("score", *given).exit_code == 2
