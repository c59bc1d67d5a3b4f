"""`aligner bench hits`: it runs in each way, and what it times are hits."""

import json

from typer.testing import CliRunner

from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.bench.hits import bench_hits
from aligner_integrations.cli.app import app

WAYS = ["correct, memory", "acorrect, memory", "correct, file", "acorrect, file"]


def test_what_is_timed_are_hits(monkeypatch):
    asked, one = [], FakeBackend._one
    monkeypatch.setattr(FakeBackend, "_one", lambda self, request: asked.append(request) or one(self, request))
    found = bench_hits(rounds=3)
    assert list(found) == WAYS and all(seconds > 0 for seconds in found.values())
    assert len(asked) == 2  # once for each cache


def test_table_and_json():
    result = CliRunner().invoke(app, ["bench", "hits", "--rounds", "1"])
    assert result.exit_code == 0 and "acorrect, file" in result.stdout
    result = CliRunner().invoke(app, ["bench", "hits", "--rounds", "1", "--json"])
    assert list(json.loads(result.stdout)) == WAYS
