"""The cookbook's RLHF script runs as it is written, on tiny models: a reward model, then RLOO."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.recording import Recorder, read_records
from aligner_integrations.training.preferences.export import export
from tests.integration import tiny
from tests.integration.training.bootstrap.small import CHAT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).parents[3] / "cookbook" / "rlhf.py"


def test_the_script_runs(tmp_path):
    from transformers import AutoTokenizer

    upstream = tiny.write_model(tmp_path / "upstream")
    tokenizer = AutoTokenizer.from_pretrained(upstream)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(upstream)
    recorder = Recorder(tmp_path / "c.jsonl")
    for n in range(12):
        recorder(Correction(f"What is tea {n}?", f"It is bad {n}.", f"It is good {n}.", "corrected"))
    recorder.close()
    export(read_records(tmp_path / "c.jsonl"), tmp_path / "pairs", conversational=True)
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", SCRIPT, "--data", tmp_path / "pairs", "--upstream", upstream, "--output", tmp_path / "out",
            "--steps", "2", "--batch", "4", "--generations", "2", "--max-new-tokens", "8",
        ],
        capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "reward" / "model.safetensors").exists()
    assert (tmp_path / "out" / "upstream" / "model.safetensors").exists()
