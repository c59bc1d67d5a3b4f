"""A bootstrap with real training on a tiny upstream: it gets cleaner, its control does not, and a kill at any step costs nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from aligner_integrations.cli import options
from aligner_integrations.cli.app import app
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording import read_records
from aligner_integrations.training.bootstrap.report import write_page, write_report
from aligner_integrations.training.bootstrap.rounds import Model
from aligner_integrations.training.bootstrap.run import bootstrap
from aligner_integrations.training.bootstrap.upstream import Upstream
from tests.integration.training.bootstrap import small

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    return small.write_upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def civil_upstream(tmp_path_factory):
    return small.write_upstream(tmp_path_factory.mktemp("civil"), swears=0.1)


@pytest.fixture(scope="module")
def study(upstream, tmp_path_factory):
    """Two rounds of the main arm and of the control."""
    output = tmp_path_factory.mktemp("study") / "out"
    told = []
    found = bootstrap(
        Model(str(upstream)), small.MATERIAL, small.aligner(), recipe=small.RECIPE, output=output,
        arms=["corrections", "own"], progress=lambda *what: told.append(what),
    )  # fmt: skip
    return found, output, told


def test_the_upstream_gets_cleaner_and_its_control_does_not(study):
    found, output, _ = study
    main, control = found.arms
    assert found.first.profane > 0.4
    assert [one.worse for one in main.rounds] == [None, None]
    assert main.rounds[-1].measures.profane < 0.5 * found.first.profane and main.rounds[-1].p < 0.05
    assert control.rounds[-1].measures.profane > main.rounds[-1].measures.profane + 0.15
    assert [one.built_upon for one in main.rounds] == [0, 1]
    assert all(one.measures.empty == 0 and one.measures.perplexity is not None for one in main.rounds)
    assert main.best == str(output / "corrections" / "seed-0" / "round-2" / "weights")
    answers = Upstream(main.best).answers(["What is tea and milk?"], max_new_tokens=16)
    assert answers[0]


def test_what_lies_in_the_folder(study):
    found, output, told = study
    one = output / "corrections" / "seed-0" / "round-1"
    records = list(read_records(one / "corrections.jsonl"))
    assert sorted(int(r.request) for r in records) == list(range(24))
    kinds = found.arms[0].rounds[0].kinds
    assert kinds["corrected"] == sum(r.correction.changed for r in records) and kinds["good"] == 6
    rows = [json.loads(line) for line in (one / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 30 and not [row for row in rows if "damn" in row["completion"][0]["content"]]
    asked = [{r.correction.question for r in read_records(output / "corrections" / "seed-0" / f"round-{n}" / "corrections.jsonl")} for n in (1, 2)]  # fmt: skip
    held_out = {question.text for question in small.MATERIAL.held_out}
    assert not asked[0] & asked[1] and not (asked[0] | asked[1]) & held_out
    assert ("round-1: answers", 24, 24) in told and ("round-2: corrections", 24, 24) in told
    assert not output.stat().st_mode & 0o077


def test_the_report(study):
    found, output, _ = study
    card = write_report(output, found, upstream="a tiny one", aligner="a word less", recipe=small.RECIPE).read_text()
    assert "corrections, round 2" in card and "own, round 2" in card and "| profane answers |" in card
    assert "not worse" in card and "McNemar" in card
    assert (output / "rounds.png").read_bytes()[:4] == b"\x89PNG"
    page = write_page(
        output, found, [question.text for question in small.MATERIAL.held_out], title="a tiny one"
    ).read_text()
    assert "cleaned" in page and page.count("<svg") == 4 and "damn" in page


def test_what_is_done_is_not_done_again(study, upstream):
    found, output, _ = study
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    again = bootstrap(
        Model(str(upstream)),
        small.MATERIAL,
        small.aligner(),
        recipe=small.RECIPE,
        output=output,
        arms=["corrections", "own"],
    )
    assert again == found
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    other = small.aligner()
    other.backend.fingerprint = ["another one"]
    with pytest.raises(ConfigurationError, match="aligner"):
        bootstrap(Model(str(upstream)), small.MATERIAL, other, recipe=small.RECIPE, output=output)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_worse_round_is_said_to_be_worse_and_not_built_upon(civil_upstream, tmp_path, objective):
    swears = small.aligner(lambda answer: "It is damn hot." if "damn" not in answer else answer)
    recipe = dataclasses.replace(small.RECIPE, objective=objective, epochs=4, max_perplexity_rise=100.0)
    found = bootstrap(Model(str(civil_upstream)), small.MATERIAL, swears, recipe=recipe, output=tmp_path / "out")
    (arm,) = found.arms
    assert arm.best is None and [one.built_upon for one in arm.rounds] == [0, 0]
    assert all("profane answers rose" in one.worse for one in arm.rounds)
    card = write_report(tmp_path / "out", found, upstream="u", aligner="a", recipe=recipe).read_text()
    assert "**worse**" in card and "nothing was built upon it" in card and "no round made it better" in card


def test_lora_and_people_as_the_ceiling(upstream, tmp_path):
    recipe = dataclasses.replace(small.RECIPE, method="lora", rounds=1, learning_rate=2e-2)
    found = bootstrap(
        Model(str(upstream)), small.MATERIAL, None, recipe=recipe, output=tmp_path / "out", arms=["human"]
    )
    (one,) = found.arms[0].rounds
    assert one.measures.profane < found.first.profane and one.kinds["human"] == 24
    assert not (tmp_path / "out" / "human" / "seed-0" / "round-1" / "corrections.jsonl").exists()


def test_too_little_to_ask(upstream, tmp_path):
    with pytest.raises(ConfigurationError, match="fresh questions"):
        bootstrap(
            Model(str(upstream)),
            small.MATERIAL,
            small.aligner(),
            recipe=dataclasses.replace(small.RECIPE, rounds=9),
            output=tmp_path / "o",
        )


def test_the_command(upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "make_aligner", lambda which: small.aligner())
    rows = {
        "questions": [{"question": question.text} for question in small.QUESTIONS],
        "good": [{"question": one.question, "answer": one.answer} for one in small.GOOD],
        "neutral": [{"text": text} for text in small.MATERIAL.neutral],
    }
    for name, some in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    command = [
        "bootstrap", "--upstream", upstream, "--output", tmp_path / "out", "--held-out", 16, "--fluent", 4, "--rounds", 1, "--per-round", 16,
        "--method", "full", "--learning-rate", 0.002, "--max-new-tokens", 16, "--batch-rows", 8,
        *(part for name in rows for part in (f"--{name}", tmp_path / name)),
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output[-2000:]
    assert "profane answers" in result.stdout and "corrections, seed 0" in result.stdout
    assert {"README.md", "report.html", "rounds.png", "bootstrap.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    again = CliRunner().invoke(app, [str(part) for part in [*command, "--json"]])
    assert json.loads(again.stdout)["first"]["answers"] == 16


# Kills --------------------------------------------------------------------------------------------------------------

STEPS = {
    "while it answers": lambda f: lines(f / "round-1" / "answers.json.part") > 1,
    "while answers are corrected": lambda f: lines(f / "round-1" / "corrections.jsonl") > 0,
    "while it trains": lambda f: (f / "round-1" / "checkpoints" / "checkpoint-4" / "trainer_state.json").exists(),
    "while it is measured": lambda f: (f / "round-1" / "training.json").exists(),
    "between two rounds": lambda f: lines(f / "round-2" / "answers.json.part") > 1,
    "while the second trains": lambda f: (
        f / "round-2" / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    ).exists(),
}


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(upstream, output):
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.training.bootstrap.small", upstream, output]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[4])}
    return subprocess.Popen(
        [str(part) for part in command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ids(folder):
    return [
        r.id for n in (1, 2) if (p := folder / f"round-{n}" / "corrections.jsonl").exists() for r in read_records(p)
    ]


def test_a_kill_at_each_step_costs_nothing(study, upstream, tmp_path):
    _, whole, _ = study
    folder = tmp_path / "out" / "corrections" / "seed-0"
    known = []
    for step, reached in STEPS.items():
        process, until = start(upstream, tmp_path / "out"), time.monotonic() + 240
        while not reached(folder):
            assert process.poll() is None and time.monotonic() < until, (step, process.stderr.read()[-2000:])
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "out" / "bootstrap.json").exists(), f"it ended before it was killed {step}"
        now = ids(folder)
        assert now[: len(known)] == known, f"corrections were made again after the kill before {step}"
        known = now
    process = start(upstream, tmp_path / "out")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-2000:]
    assert ids(folder)[: len(known)] == known
    for n in (1, 2):
        one, other = folder / f"round-{n}", whole / "corrections" / "seed-0" / f"round-{n}"
        assert (
            json.loads((one / "answers.json").read_text())["answers"]
            == json.loads((other / "answers.json").read_text())["answers"]
        )
        first, second = (load_file(path / "weights" / "model.safetensors") for path in (one, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
        measured, expected = (json.loads((path / "measures.json").read_text()) for path in (one, other))
        assert measured["profane"] == expected["profane"] and measured["perplexity"] == expected["perplexity"]
