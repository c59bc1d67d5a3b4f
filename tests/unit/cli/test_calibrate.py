"""`aligner calibrate`: where the threshold goes, and where it does not."""

import json

import pytest

from aligner_integrations.gate_file import LearntGate, read_gate
from aligner_integrations.models import CONFIG_FILE, EMBEDDED, AlignerConfig
from aligner_integrations.templates import get_template
from tests.unit.support import ScoringBackend, score_of


@pytest.fixture
def rows(tmp_path):
    """90 wins above 10, 10 losses about 5, and 200 ties below."""
    found = [(10.0 + i, "won") for i in range(90)] + [(5 + i / 100, "lost") for i in range(10)]
    found += [(-float(i), "tied") for i in range(200)]
    path = tmp_path / "helpful.jsonl"
    rows = [
        {"question": "q", "answer": f"a{i} {verdict}", "correction": "c", "score": score, "verdict": verdict}
        for i, (score, verdict) in enumerate(found)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_gate_of_its_own(run, rows, tmp_path):
    path = tmp_path / "gate.json"
    result = run("calibrate", rows, "--loss-rate", 0.01, "--gate", path, "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert read_gate(path) == pytest.approx(5.09)
    promise = json.loads(path.read_text())["promise"]
    assert (promise["loss_rate_at_most"], promise["rows"], promise["rows_from"]) == (0.01, 300, "helpful.jsonl")
    assert f"Use it: Aligner(gate='{path}')" in result.stderr
    assert "<svg" in (tmp_path / "page.html").read_text("utf-8")
    assert json.loads(run("calibrate", rows, "--loss-rate", 0.01, "--json").stdout)["chosen"]["wins"] == 0.3


def test_an_aligners_folder(run, rows, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    AlignerConfig(get_template("paper"), "some/base", gate=1.0, gate_layer=3, edits="minimal").save(folder)
    assert run("calibrate", rows, "--loss-rate", 0.01, "--folder", folder).exit_code == 0
    config = AlignerConfig.read(folder / CONFIG_FILE)
    assert config == AlignerConfig(get_template("paper"), "some/base", gate=config.gate, gate_layer=3, edits="minimal")
    assert config.gate == pytest.approx(5.09)
    assert json.loads((folder / CONFIG_FILE).read_text())["gate_promise"]["confidence"] == 0.9
    assert [path.name for path in folder.iterdir()] == [CONFIG_FILE]


def test_what_has_a_gate_learns_none(run, rows, tmp_path):
    AlignerConfig(get_template("paper"), "some/base", gate=1.0, gate_layer=3).save(tmp_path)
    result = run("calibrate", rows, "--learn", "--folder", tmp_path)
    assert result.exit_code == 1 and "has a gate already" in result.stderr


def test_the_installed_package_is_never_written_to(run, rows):
    before = (EMBEDDED / CONFIG_FILE).read_bytes()
    result = run("calibrate", rows, "--loss-rate", 0.01, "--folder", EMBEDDED)
    assert result.exit_code == 1 and "The installed package is never written to" in result.stderr
    assert (EMBEDDED / CONFIG_FILE).read_bytes() == before


def test_nothing_can_be_promised(run, rows, tmp_path):
    result = run("calibrate", rows, "--loss-rate", 0.001, "--gate", tmp_path / "gate.json")
    assert result.exit_code == 1 and "Nothing can be promised: 300 rows are too few" in result.stderr
    assert not (tmp_path / "gate.json").exists()


def test_a_gate_is_learnt_where_there_was_none(run, fake, rows, tmp_path):
    class Judging(ScoringBackend):
        def __init__(self, fn):
            super().__init__(lambda answer: score_of(answer, gap=8.0 if "won" in answer else 1.0), fn)

    fake(backend=Judging)
    path = tmp_path / "gate.json"
    result = run("calibrate", rows, "--learn", "--loss-rate", 0.05, "--gate", path)
    assert result.exit_code == 0, result.output
    gate = read_gate(path)
    assert isinstance(gate, LearntGate)
    assert gate("q", "x", score_of("well", gap=1.0)) and not gate("q", "x", score_of("won", gap=8.0))
    assert json.loads(path.read_text())["promise"]["rows"] == 150  # the half that it was not learnt from


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--learn", "--folder", ".", "--gate", "gate.json"], "into a folder or into a file"),
        (["--folder", "."], "is no aligner's folder"),
        (["--loss-rate", "2"], "between 0 and 1"),
    ],
)
def test_wrong_options_are_a_sentence(run, fake, rows, given, says):
    fake()
    result = run("calibrate", rows, *given)
    assert result.exit_code in (1, 2) and says in result.stderr
