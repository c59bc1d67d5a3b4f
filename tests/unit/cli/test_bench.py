"""`aligner bench`: its options and outputs. The numbers: tests/unit/bench; real weights: integration."""

import json
import re
from importlib.util import find_spec

import pytest

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.cli import bench

from .conftest import answer_in, civil
from .evaluate.test_quality import ROWS


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


@pytest.fixture(autouse=True)
def ways(monkeypatch):
    def fakes(name, template, scripts, dtype):
        return {
            name: Aligner(backend=FakeBackend(fn), template=template or "aligner-repo")
            for name, fn in (("generate", civil), ("drafts", answer_in))
        }

    monkeypatch.setattr(bench, "_ways", fakes)


def test_table_and_differences(run, rows):
    result = run("bench", "decoding", "--rows", rows, "--limit", 1, "--repeats", 2)
    assert result.exit_code == 0
    assert "rude: generate" in result.stdout and "mixed: drafts" in result.stdout
    assert "drafts, answer 1 differs: 'oh shit' instead of 'oh bad'" in result.stdout
    assert "compared with generate" in result.stderr


def test_json_output_and_plot(run, rows, tmp_path):
    result = run(
        "bench", "decoding", "--rows", rows, "--json", "-o", tmp_path / "speed.json", "--plot", tmp_path / "speed.png"
    )
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "speed.json").read_text("utf-8"))
    assert {kind: ways["drafts"]["same"] for kind, ways in report["kinds"].items()} == {
        "rude": 0,
        "good": 1,
        "mixed": 0,
    }
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_against_another_one_it_says_how_far_ahead_drafts_are(run, rows, monkeypatch):
    other = {"llama.cpp": Aligner(backend=FakeBackend(civil), template="aligner-repo")}
    monkeypatch.setattr(bench, "_others", lambda name, template, folder: other)
    result = run("bench", "decoding", "--rows", rows, "--against", "llama.cpp")
    assert result.exit_code == 0, result.output
    assert "rude: llama.cpp" in result.stdout
    assert re.search(r"rude: drafts \d+\.\d\d times as fast as llama\.cpp's better way\.", result.stderr)


@pytest.mark.skipif(find_spec("llama_cpp") is not None, reason="it is installed")
def test_without_the_package_it_says_so(run, rows):
    result = run("bench", "decoding", "--rows", rows, "--against", "llama.cpp")
    assert result.exit_code == 1
    assert "pip install llama-cpp-python" in result.stderr


def test_nobody_else_writes_a_script(run, rows):
    result = run("bench", "decoding", "--rows", rows, "--against", "llama.cpp", "--hard")
    assert result.exit_code == 2 and "without --hard" in result.stderr


def test_a_file_that_is_not_there_is_a_sentence(run, tmp_path):
    result = run("bench", "decoding", "--rows", tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert "none.jsonl" in result.stderr
