"""`aligner calibrate --learn --folder`: verdicts become a gate on hidden states, with a promise; on a tiny model."""

import json
import random
import shutil

import pytest
from typer.testing import CliRunner

from aligner_integrations import Aligner
from aligner_integrations.backends.local import loading
from aligner_integrations.cli.app import app
from aligner_integrations.models import CONFIG_FILE, GATE_FILE, AlignerConfig

pytestmark = pytest.mark.integration

BAD, FINE = "tea is advice", "tea is a drink"


@pytest.fixture
def rows(tmp_path):
    """Corrections of bad advice are better than it, those of what is fine are worse."""
    rng = random.Random(1)
    path = tmp_path / "rows.jsonl"
    lines = []
    for number in range(240):
        bad = number % 2 == 0
        answer = f"{BAD if bad else FINE} {'good ' * rng.randrange(5)}".strip()
        correction = answer.replace("advice", "water") if bad else "wait"
        row = {"question": f"What about {number}?", "answer": answer, "correction": correction, "score": None}
        lines.append(json.dumps({**row, "verdict": "won" if bad else "lost"}) + "\n")
    path.write_text("".join(lines))
    return path


def test_from_verdicts_to_a_gate_that_keeps_what_is_fine(adapter, rows, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    result = CliRunner().invoke(app, ["calibrate", str(rows), "--learn", "--folder", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["rows"] == 120 and told["wins_kept"] > 0.9 and told["without"]["losses"] > 0.3
    data = json.loads((folder / CONFIG_FILE).read_text())
    assert data["gate_promise"]["rows"] == 120 and data["gate"] == told["chosen"]["threshold"]

    loading.release()  # the gate was not there when the weights were loaded
    aligner = Aligner(str(folder), on_error="keep")
    assert aligner.correct("What about 3?", f"{FINE} good").outcome == "kept"
    high, low = (aligner.score("What about 3?", text).gate for text in (BAD, FINE))
    assert high > data["gate"] >= low


def test_no_promise_no_gate(adapter, rows, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    before = AlignerConfig.read(folder / CONFIG_FILE)
    command = ["calibrate", str(rows), "--learn", "--folder", str(folder), "--loss-rate", "0.001"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0 and "too few" in result.output
    assert AlignerConfig.read(folder / CONFIG_FILE) == before and not (folder / GATE_FILE).exists()
    result = CliRunner().invoke(app, [*command[:-2], "--limit", "100"])
    assert "a gate needs 20" in result.output
