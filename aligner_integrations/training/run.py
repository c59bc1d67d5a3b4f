"""One training from rows to a folder that `Aligner(folder)` loads: weights, tokenizer, configuration, gate, card.

Each stage leaves a file behind and is skipped when that file is there, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from aligner_integrations.backends.local.loading import load_base, load_weights
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.models import GATE_FILE, AlignerConfig
from aligner_integrations.templates import Template
from aligner_integrations.training import card
from aligner_integrations.training.allocator import keep_freed_memory
from aligner_integrations.training.data import Triple, edits_of
from aligner_integrations.training.gate import FittedGate, GateExample, fit_gate
from aligner_integrations.training.recipes import Recipe
from aligner_integrations.training.sft import TrainingReport, train

logger = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
GATE_REPORT = "gate.json"
_FEWEST_EXAMPLES = 20


def train_aligner(
    triples: Sequence[Triple],
    *,
    base: str,
    revision: str | None,
    template: Template,
    recipe: Recipe,
    output: Path,
    data: str,
    start: Path | None = None,
) -> Path:
    """Train an aligner with its gate and card.

    Args:
        triples: Q-A-C rows, identity pairs among them. One question in ten is held out for the gate's threshold.
        base: Hub id or folder of the base model; `"embedded"` is the base of the embedded aligner.
        revision: Commit of a Hub base.
        template: The template to train with.
        recipe: The hyper-parameters.
        output: Folder of the result; checkpoints go into its sub-folder `checkpoints`.
        data: Where the rows come from, for the card.
        start: Folder of a LoRA adapter to go on from.

    Returns:
        `output`.
    """
    tuning, training = _hold_out(triples, recipe.seed)
    fit_weights(training, base=base, revision=revision, template=template, recipe=recipe, output=output, start=start)
    if not is_main_process():
        return output  # gate and card are the work of one process
    examples, held_out = _examples(training, recipe.seed, 1600), _examples(tuning, recipe.seed, 400)
    if min(_fewest(examples), _fewest(held_out)) < _FEWEST_EXAMPLES:
        logger.warning(
            "No gate was trained: it needs at least %d corrected and %d identical answers, held out and trained on.",
            _FEWEST_EXAMPLES,
            _FEWEST_EXAMPLES,
        )
    else:
        fit_own_gate(output, examples, held_out, recipe.seed)
    further = [] if start is None else [f"goes on from the adapter in {start}"]
    card.write(output, title=f"Aligner on {base}", data=[data, *further], recipe=recipe)
    return output


def is_main_process() -> bool:
    """Whether this is the process that writes files, of those `accelerate launch` started."""
    return bool(PartialState().is_main_process)


def fit_weights(
    triples: Sequence[Triple],
    *,
    base: str,
    revision: str | None,
    template: Template,
    recipe: Recipe,
    output: Path,
    start: Path | None = None,
) -> None:
    """Train and save weights, tokenizer, `aligner_config.json` and `training.json`; skipped if that is done."""
    if (output / TRAINING_FILE).exists():
        return
    if not torch.cuda.is_available():
        keep_freed_memory()
    dtype = torch.bfloat16 if recipe.method == "lora" else torch.float32
    model, tokenizer = load_base(base, revision, dtype=dtype)
    trained = train(model, tokenizer, template, triples, recipe, output / "checkpoints", start)
    if not is_main_process():
        return
    result: Any = trained.model
    name = card.base_name(base)
    if recipe.method == "lora":
        result.peft_config["default"].base_model_name_or_path = name
        result.peft_config["default"].revision = revision
        result.save_pretrained(output, state_dict=trained.state, save_embedding_layers=False)
        AlignerConfig(template, name, revision, edits=edits_of(triples)).save(output)
    else:
        result.save_pretrained(output, state_dict=trained.state)
        tokenizer.save_pretrained(output)
        AlignerConfig(template, edits=edits_of(triples)).save(output)
    (output / TRAINING_FILE).write_text(json.dumps(trained.report.to_dict(), indent=1))


def fit_own_gate(output: Path, train_on: Sequence[GateExample], tune_on: Sequence[GateExample], seed: int) -> None:
    """Train the gate of a saved aligner and store it beside the weights; skipped if that is done."""
    if (output / GATE_REPORT).exists():
        return
    config = AlignerConfig.read(output / "aligner_config.json")
    weights = load_weights(str(output), None, None, None, None)
    depth = weights.model.config.get_text_config().num_hidden_layers
    layers = sorted({round(depth * share) for share in (0.5, 0.67, 0.87)})
    fitted = fit_gate(weights, config.template, train_on, tune_on, layers=layers, seed=seed, progress=_log_progress)
    fitted.probe.save(output / GATE_FILE)
    dataclasses.replace(config, gate=fitted.threshold, gate_layer=fitted.probe.layer).save(output)
    (output / GATE_REPORT).write_text(json.dumps(_gate_report(fitted, train_on, tune_on), indent=1))


def read_report(output: Path) -> TrainingReport:
    """Read the `training.json` of a finished training."""
    data: dict[str, Any] = json.loads((output / TRAINING_FILE).read_text())
    data["curve"] = [tuple(point) for point in data["curve"]]
    return TrainingReport(**data)


def _gate_report(fitted: FittedGate, train_on: Sequence[GateExample], tune_on: Sequence[GateExample]) -> dict[str, Any]:
    return {
        "layer": fitted.probe.layer,
        "threshold": fitted.threshold,
        "good_kept": fitted.good_kept,
        "bad_flagged": fitted.bad_flagged,
        "training_examples": len(train_on),
        "tuning_examples": len(tune_on),
    }


def _log_progress(done: int, total: int) -> None:
    if done == total or done % 100 < 4:
        logger.info("gate: %d of %d examples", done, total)


def _hold_out(triples: Sequence[Triple], seed: int) -> tuple[list[Triple], list[Triple]]:
    """Split off a tenth of the questions: (held out, training)."""
    questions = sorted({t.question for t in triples})
    if len(questions) < 10:
        raise ConfigurationError(f"The rows have {len(questions)} different questions; at least 10 are needed.")
    random.Random(seed).shuffle(questions)
    held = set(questions[: len(questions) // 10])
    return [t for t in triples if t.question in held], [t for t in triples if t.question not in held]


def _examples(triples: Sequence[Triple], seed: int, count: int) -> list[GateExample]:
    chosen = random.Random(seed).sample(list(triples), min(count, len(triples)))
    return [GateExample(t.question, t.answer, () if t.answer == t.correction else (t.correction,)) for t in chosen]


def _fewest(examples: Sequence[GateExample]) -> int:
    corrected = sum(bool(e.corrections) for e in examples)
    return min(corrected, len(examples) - corrected)
