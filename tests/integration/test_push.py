"""Putting what was made on a Hub: `aligner train --push`, `aligner preferences --push`, and loading it from there by its name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aligner_integrations.correction import Correction
from aligner_integrations.recording import Recorder
from tests.integration.hub_server import Hub
from tests.integration.training.test_training import triples

pytestmark = pytest.mark.integration

TOKEN = "hf_writer"


@pytest.fixture(scope="module")
def hub(random_model):
    with Hub(writer=TOKEN) as server:
        server.add("tiny/base", random_model)
        yield server


@pytest.fixture(scope="module")
def aligner(hub, tmp_path_factory):
    """Runs the program, or a line of Python, with nothing but the Hub's address and a token."""
    home = tmp_path_factory.mktemp("hf")

    def run(*arguments, token=TOKEN, code=None):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "ALIGNER"))}
        env = kept | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "*",
            "HF_TOKEN": token,
        }
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        what = ["-c", code] if code else ["-m", "aligner_integrations", *map(str, arguments)]
        return subprocess.run(
            [sys.executable, "-W", "ignore", *what], env=env, capture_output=True, text=True, timeout=280
        )

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "triples.jsonl"
    rows = [{"question": t.question, "answer": t.answer, "correction": t.correction} for t in triples(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(aligner, data, output, name, *more, method="lora", base="tiny/base", **options):
    return aligner(
        "train", "--data", data, "--base", base, "--output", output, "--method", method, "--epochs", 1, "--template", "tiny: {question} {answer} => ",
        "--push", name, "--json", *more, **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_trained_aligner_is_loaded_from_the_hub_by_its_name(aligner, hub, data, tmp_path, method):
    done = train(aligner, data, tmp_path / "out", f"me/{method}", method=method)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["url"].endswith(f"/me/{method}")
    repo = hub.repos[f"me/{method}"]
    files = repo.commits[repo.main]
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert {weights, "aligner_config.json", "README.md", "training.json"} <= files.keys()
    assert repo.private and not [name for name in files if "checkpoint" in name or name.startswith(".")]
    assert files[weights] == (tmp_path / "out" / weights).read_bytes()
    assert str(tmp_path).encode() not in b"".join(
        content for name, content in files.items() if not name.endswith("safetensors")
    )
    code = f"""
from aligner_integrations import Aligner
aligner = Aligner("me/{method}", max_new_tokens=8, on_error="keep", gate=False)
aligner.load()
assert aligner.template.text == "tiny: {{question}} {{answer}} => ", aligner.template
assert aligner.correct("What about 1?", "tea is advice").outcome
"""
    loaded = aligner(code=code)
    assert loaded.returncode == 0, loaded.stderr[-2000:]


def test_what_would_fail_at_the_end_fails_before_the_training(aligner, hub, data, random_model, tmp_path):
    hub.add("me/public", {})
    for name, options, words in (
        ("noname", {}, "OWNER/NAME"),
        ("me/new", {"token": "hf_reader"}, "HF_TOKEN"),
        ("me/public", {}, "--public"),
        ("me/local", {"base": random_model}, "a folder here"),
    ):
        done = train(aligner, data, tmp_path / "out", name, **options)
        assert done.returncode == 1 and words in done.stdout, (name, done.stdout, done.stderr)
        assert "hf_" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_preferences_go_to_a_private_data_set(aligner, hub, tmp_path):
    recorder = Recorder(tmp_path / "c.jsonl")
    for n in range(9):
        recorder(Correction(f"q{n}", f"bad {n}", f"good {n}", "corrected"))
    recorder.close()
    done = aligner("preferences", tmp_path / "c.jsonl", tmp_path / "out", "--push", "me/pairs", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    repo = hub.repos["datasets/me/pairs"]
    assert repo.private
    assert (
        repo.commits[repo.main]["preference.train.jsonl"] == (tmp_path / "out" / "preference.train.jsonl").read_bytes()
    )
    assert {"README.md", "kto.train.jsonl", "statistics.json"} <= repo.commits[repo.main].keys()


def test_a_hub_in_trouble(aligner, hub, tmp_path):
    hub.add("datasets/me/ill", {}, status=500)
    recorder = Recorder(tmp_path / "c.jsonl")
    recorder(Correction("q", "bad", "good", "corrected"))
    recorder.close()
    done = aligner("preferences", tmp_path / "c.jsonl", tmp_path / "out", "--push", "me/ill", "--json")
    assert done.returncode == 1 and "status 500" in done.stdout and '"retryable": true' in done.stdout
