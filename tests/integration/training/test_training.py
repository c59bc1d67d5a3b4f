"""Training on a tiny model: what is learnt from, a kill in the middle, and the folder that comes out."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from aligner_integrations import Aligner
from aligner_integrations.cli.app import app
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.models import EMBEDDED
from aligner_integrations.training import run, sft
from aligner_integrations.training.checkpoints import newest_whole
from aligner_integrations.training.recipes import RECIPES, Recipe
from aligner_integrations.triples import Triple
from tests.integration import tiny

pytestmark = pytest.mark.integration

WORDS = ["tea", "is", "a", "drink", "hot", "wait", "fine", "thanks", "kettle", "water", "good", "old"]


def triples(count: int = 700) -> list[Triple]:
    """Rows in which "advice" becomes "water" and everything else stays; every third row is an identity pair."""
    rng = random.Random(3)
    rows = []
    for i in range(count):
        words = rng.choices(WORDS, k=rng.randint(3, 8))
        good = " ".join(words)
        bad = good if i % 3 == 0 else " ".join([*words[:2], "advice", *words[2:]])
        rows.append(Triple(f"What about {i}?", bad, good))
    return rows


RECIPE = Recipe(
    method="lora", epochs=1, learning_rate=1e-3, max_length=128, batch_tokens=512, gradient_accumulation=1,
    identity_share=0.1, lora_rank=4, gradient_checkpointing=False, save_steps=4,
)  # fmt: skip


class Training:
    """A training in a process of its own; what it says on stderr goes into a file."""

    def __init__(self, base: Path, output: Path) -> None:
        self.said = output.with_suffix(".log")
        with self.said.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code(base, output)], stderr=log)

    def wait(self) -> None:
        assert self.process.wait(timeout=240) == 0, self.said.read_text()[-2000:]

    def kill_after(self, file: Path) -> None:
        deadline = time.monotonic() + 240
        while not file.exists():
            assert time.monotonic() < deadline and self.process.poll() is None, self.said.read_text()[-2000:]
            time.sleep(0.02)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)


def code(base: Path, output: Path) -> str:
    return (
        "import sys; from pathlib import Path; from tests.integration.training import test_training as t\n"
        "from aligner_integrations.training import run\n"
        f"run.train_aligner(t.triples(), base={str(base)!r}, revision=None, template=t.tiny.TEMPLATE,"
        f" recipe=t.RECIPE, output=Path({str(output)!r}), data='made-up rows')\n"
    )


def test_only_the_correction_carries_loss(random_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model)
    order, refused = sft.lay_out(triples(30), tokenizer, tiny.TEMPLATE, RECIPE)
    assert refused == 0
    rows = [row for batch in order for row in batch]
    batch = sft._collate(tokenizer.eos_token_id)([{"rows": [row._asdict() for row in rows]}])
    for row, labels in zip(rows, batch["labels"], strict=True):
        assert labels[labels != -100].tolist() == row.completion
        assert (labels[: len(row.prompt)] == -100).all()


def test_the_cpu_loss_is_trls_loss(random_model):
    """Our cross entropy and the model's own loss on the same batch agree."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model)
    model = AutoModelForCausalLM.from_pretrained(random_model)
    order, _ = sft.lay_out(triples(40), tokenizer, tiny.TEMPLATE, RECIPE)
    batch = sft._collate(tokenizer.eos_token_id)([{"rows": [row._asdict() for row in order[1]]}])
    with torch.no_grad():
        ours = sft._CpuTrainer.compute_loss(None, model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            own = model(**batch).loss
    assert float(ours) == pytest.approx(float(own), rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_trains_in_what_it_computes_fast_in(random_model, tmp_path, monkeypatch, dtype):
    seen = set()

    def watched(logits, labels, reduction, cross_entropy=torch.nn.functional.cross_entropy):
        assert logits.dtype == torch.float32
        return cross_entropy(logits, labels, reduction=reduction)

    for module in (run, sft):
        monkeypatch.setattr(module, "quick_dtype", lambda: dtype)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: seen.add((out := forward(self, x)).dtype) or out)
    run.fit_weights(
        triples(40),
        base=str(random_model),
        revision=None,
        template=tiny.TEMPLATE,
        recipe=RECIPE,
        output=tmp_path / "out",
    )
    assert seen == {dtype}
    assert all(
        torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").values()
    )


def test_warm_up_comes_first_and_too_long_rows_are_counted(random_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model)
    rows = [*triples(30), Triple("q", "tea " * 300, "tea " * 300)]
    order, refused = sft.lay_out(rows, tokenizer, tiny.TEMPLATE, RECIPE)
    assert refused == 1
    first = order[0][0]
    answer = tokenizer.decode(first.completion[:-1]).strip()
    assert f"A: {answer} Better:" in tokenizer.decode(first.prompt)
    with pytest.raises(ConfigurationError, match="max_length"):
        sft.lay_out(rows[-1:], tokenizer, tiny.TEMPLATE, RECIPE)


def test_a_killed_training_resumes_to_the_same_result(random_model, tmp_path):
    Training(random_model, tmp_path / "whole").wait()

    killed = tmp_path / "killed"
    Training(random_model, killed).kill_after(killed / "checkpoints" / "checkpoint-8" / "trainer_state.json")
    assert not (killed / "training.json").exists(), "it ended before it was killed"
    Training(random_model, killed).wait()

    one, two = tmp_path / "whole", tmp_path / "killed"
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    def card(folder: Path) -> list[str]:
        return [line for line in (folder / "README.md").read_text().splitlines() if "minutes on" not in line]

    assert card(one) == card(two)
    curves = [json.loads((folder / "training.json").read_text())["curve"] for folder in (one, two)]
    assert curves[0] == curves[1]
    assert (one / "loss.png").stat().st_size > 1000
    config = json.loads((one / "aligner_config.json").read_text())
    assert config["edits"] == "minimal"
    assert config["base"] == str(random_model) and isinstance(config["gate"], float)

    aligner = Aligner(str(one), on_error="keep")
    score = aligner.score("What about 1?", "tea is advice fine")
    assert score.gate is not None and all(token.mark is not None for token in score.tokens)
    assert aligner.correct("What about 1?", "tea is fine").outcome in ("kept", "corrected", "failed")


def fitted(base, output, rows=None, recipe=RECIPE, template=tiny.TEMPLATE, **options):
    run.fit_weights(
        triples(60) if rows is None else rows, base=str(base), revision=None, template=template, recipe=recipe,
        output=output, **options,
    )  # fmt: skip


def test_a_checkpoint_that_a_kill_tore_is_passed_over(random_model, tmp_path):
    """A kill while its state is written leaves half a file, or none."""
    out = tmp_path / "out"
    fitted(random_model, out)
    weights = load_file(out / "adapter_model.safetensors")
    older, newer = sorted((out / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest_whole(out / "checkpoints") == str(newer)
    state = newer / "trainer_state.json"
    state.write_text(state.read_text()[:200])
    (out / "checkpoints" / "checkpoint-9999").mkdir()
    assert newest_whole(out / "checkpoints") == str(older) and newest_whole(tmp_path / "nothing") is None
    (out / run.TRAINING_FILE).unlink()
    fitted(random_model, out)
    again = load_file(out / "adapter_model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_finished_folder_is_not_taken_for_the_work_of_other_data(random_model, adapter, tmp_path):
    """Trained again with the same, nothing is done; with anything else, the folder says what does not match."""
    from aligner_integrations.templates import get_template

    output = tmp_path / "out"
    fitted(random_model, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    fitted(random_model, output)
    other = shutil.copytree(random_model, tmp_path / "base")
    (other / "config.json").write_text((other / "config.json").read_text().replace("{", '{"note": 1, ', 1))
    cases = {
        "other data": {"rows": triples(61)},
        "other recipe": {"recipe": dataclasses.replace(RECIPE, seed=7)},
        "other template": {"template": get_template("Other {question} {answer}")},
        "other start": {"start": adapter},
        "other data and recipe": {"rows": triples(61), "recipe": dataclasses.replace(RECIPE, seed=7)},
    }
    for what, options in cases.items():
        with pytest.raises(ConfigurationError, match=f"{what} .*--output"):
            fitted(random_model, output, **options)
    with pytest.raises(ConfigurationError, match="other base"):
        fitted(other, output)
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}


def test_other_rows_do_not_resume_a_foreign_checkpoint(random_model, tmp_path):
    fitted(random_model, tmp_path)
    (tmp_path / "training.json").unlink()  # as if it had been killed before its end
    with pytest.raises(ConfigurationError, match="other data"):
        fitted(random_model, tmp_path, rows=triples(61))
    fitted(random_model, tmp_path)
    assert (tmp_path / "training.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 3}'])
def test_a_damaged_file_of_a_stage_can_be_got_past(random_model, tmp_path, content):
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"training\.json is damaged.*Delete it"):
        fitted(random_model, tmp_path)
    (tmp_path / "training.json").unlink()
    fitted(random_model, tmp_path)


def test_the_papers_recipe_is_the_papers(random_model):
    recipe = RECIPES["paper"]
    assert (recipe.method, recipe.epochs, recipe.learning_rate, recipe.max_length) == ("full", 3, 2e-5, 2048)
    assert (recipe.batch_rows, recipe.gradient_accumulation, recipe.warmup_ratio) == (4, 8, 0.03)
    assert (recipe.betas, recipe.weight_decay, recipe.seed) == ((0.9, 0.95), 0.0, 42)


def test_a_full_training_makes_a_whole_model(random_model, tmp_path):
    recipe = dataclasses.replace(RECIPE, method="full", identity_share=0.0)
    folder = run.train_aligner(
        triples(80), base=str(random_model), revision=None, template=tiny.TEMPLATE, recipe=recipe,
        output=tmp_path / "full", data="made-up rows",
    )  # fmt: skip
    assert (folder / "model.safetensors").exists()
    assert not (folder / "adapter_config.json").exists()
    assert Aligner(str(folder)).template == tiny.TEMPLATE


def test_a_training_goes_on_from_an_adapter(random_model, adapter, tmp_path):
    """With hardly any learning rate what comes out is what it began with, and with one it is not."""

    def trained(rate: float) -> dict[str, torch.Tensor]:
        folder = tmp_path / str(rate)
        recipe = dataclasses.replace(RECIPE, learning_rate=rate, identity_share=0.0)
        run.fit_weights(
            triples(60), base=str(random_model), revision=None, template=tiny.TEMPLATE, recipe=recipe, output=folder,
            start=adapter,
        )  # fmt: skip
        return load_file(folder / "adapter_model.safetensors")

    began = load_file(adapter / "adapter_model.safetensors")
    same, other = trained(1e-12), trained(1e-2)
    assert began.keys() == same.keys() == other.keys()
    assert all(torch.equal(began[name].bfloat16(), same[name].bfloat16()) for name in began)
    assert not all(torch.equal(began[name].bfloat16(), other[name].bfloat16()) for name in began)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_only_an_adapter_can_be_gone_on_from(random_model, adapter, tmp_path, method):
    with pytest.raises(ConfigurationError, match="adapter"):
        run.fit_weights(
            triples(20), base=str(random_model), revision=None, template=tiny.TEMPLATE,
            recipe=dataclasses.replace(RECIPE, method=method), output=tmp_path,
            start=adapter if method == "full" else random_model,
        )  # fmt: skip


def test_the_command_trains_from_preference_pairs(random_model, tmp_path):
    """The paper's recipe, as a user runs it: preference pairs in, a folder that corrects out."""
    rows = [{"prompt": t.question, "rejected": t.answer, "chosen": t.correction} for t in triples(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-W", "ignore", "-m", "aligner_integrations", "train", "--json", "--epochs", "1"]
    done = subprocess.run(
        [*command, "--data", tmp_path / "pairs.jsonl", "--base", random_model, "--output", tmp_path / "out"],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "{'" not in done.stderr and "it/s" not in done.stderr, "what trainers say to themselves"
    result = json.loads(done.stdout)
    assert result["training"]["rows"] == 54 and result["training"]["refused"] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "full parameters, 1 pass(es), learning rate 2e-05" in card and "identity warm-up 20%" in card
    assert Aligner(str(tmp_path / "out")).template.name == "aligner-7b"


def test_the_command_goes_on_from_the_embedded_aligner(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(run, "train_aligner", lambda rows, **options: seen.update(options, rows=rows))
    monkeypatch.setattr(run, "read_report", lambda output: sft.TrainingReport(1, 0, 1, 1, 1.0, "here"))
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a", "correction": "c"}')
    command = [
        "train",
        "--data",
        tmp_path / "rows.jsonl",
        "--recipe",
        "small",
        "--base",
        "embedded",
        "--start",
        "embedded",
    ]
    result = CliRunner().invoke(app, [str(word) for word in [*command, "--output", tmp_path / "out"]])
    assert result.exit_code == 0, result.output
    assert seen["start"] == EMBEDDED and seen["base"] == "embedded" and seen["recipe"] == RECIPES["small"]


def test_the_embedded_recipe_goes_on_from_a_first_pass_and_from_no_other_base(tmp_path):
    command = ["train", "--recipe", "embedded", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--start", "embedded"])
    assert result.exit_code == 1 and "lacks paradetox.jsonl.gz" in " ".join(result.output.split())
    result = CliRunner().invoke(app, [*command, "--base", "gpt2", "--epochs", "2"])
    assert result.exit_code == 1 and "fixed; drop epochs, base" in " ".join(result.output.split())


def test_losses_are_one_line_each(random_model, tmp_path, caplog):
    with caplog.at_level("INFO", logger="aligner_integrations"):
        fitted(random_model, tmp_path, recipe=dataclasses.replace(RECIPE, save_steps=1))
    assert [record for record in caplog.messages if re.fullmatch(r"step \d+ of \d+: loss \d+\.\d{3}", record)]


def test_the_fsdp_configuration_loads():
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file("cookbook/fsdp.yaml")
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
