"""`aligner bench recording`: it runs at each kind of place, and everything given is written."""

import json

from typer.testing import CliRunner

from aligner_integrations.bench.recording import bench_recording
from aligner_integrations.cli.app import app
from aligner_integrations.recording.recorder import Recorder

PLACES = ["file.jsonl", "folder", "database.db", "redacted.jsonl"]


def test_what_is_timed_is_written(monkeypatch):
    written, put = [], Recorder._put
    monkeypatch.setattr(Recorder, "_put", lambda self, batch: written.extend(batch) or put(self, batch))
    found = bench_recording(records=20)
    assert list(found) == PLACES and all(0 < one.caller <= one.p99 and one.burst <= one.whole for one in found.values())
    assert len(written) == 4 * (20 + 2_000)


def test_table_and_json():
    result = CliRunner().invoke(app, ["bench", "recording", "--records", "10"])
    assert result.exit_code == 0 and "database.db" in result.stdout
    result = CliRunner().invoke(app, ["bench", "recording", "--records", "10", "--json"])
    assert list(json.loads(result.stdout)) == PLACES
