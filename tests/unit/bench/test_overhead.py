"""`aligner bench overhead`: it runs, its figures fit together, and it says what is missing. How large they are is no test."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from aligner_integrations.bench.overhead import bench_overhead
from aligner_integrations.cli.app import app
from aligner_integrations.errors import QuestionNotFoundError
from aligner_integrations.langchain.question import recorder


def test_both_ways_with_and_without_the_hook(monkeypatch):
    """The recorder is called in every second turn, and knows of no run afterwards."""
    started = []
    start = recorder.RECORDER.on_chat_model_start
    monkeypatch.setattr(recorder.RECORDER, "on_chat_model_start", lambda *a, **k: (started.append(1), start(*a, **k)))
    ways, look_up = bench_overhead(rounds=3)
    assert len(started) == 1 + 2 * 5 + 2 * 3 * 5  # to look up, to warm up, and half of all turns
    assert list(ways) == ["invoke", "ainvoke"]
    assert all(one.without > 0 and one.hooked > 0 for one in ways.values()) and look_up > 0
    assert recorder.RECORDER.sizes()["scopes"] == recorder.RECORDER.sizes()["calls"] == 0


def test_table_and_json(tmp_path):
    result = CliRunner().invoke(app, ["bench", "overhead", "--rounds", "1"])
    assert result.exit_code == 0
    assert "without the hook" in result.stdout and "ainvoke" in result.stdout and "look-up" in result.stderr
    path = tmp_path / "overhead.json"
    result = CliRunner().invoke(app, ["bench", "overhead", "--rounds", "1", "--json", "-o", str(path)])
    report = json.loads(result.stdout)
    assert report == json.loads(path.read_text("utf-8"))
    assert set(report["ways"]["ainvoke"]) == {"without", "hooked", "share"}


def test_a_hook_that_is_switched_off_cannot_be_measured():
    with recorder.disabled(), pytest.raises(QuestionNotFoundError, match="hook is switched off"):
        bench_overhead(rounds=1)


def test_missing_langchain_names_the_extra():
    program = (
        "import sys\n"
        "sys.modules['langchain_core'] = None\n"
        "from aligner_integrations.cli import main\n"
        "sys.argv = ['aligner', 'bench', 'overhead']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install" in done.stderr and "aligner-integrations[langchain]" in done.stderr
