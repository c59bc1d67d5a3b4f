"""One training from rows to a folder that `Aligner(folder)` loads: weights, tokenizer, configuration, gate, card.

Each stage leaves a file behind and is skipped when that file is there, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from aligner_integrations.backends.local.devices import quick_dtype
from aligner_integrations.backends.local.loading import Weights, load_base, load_weights
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.models import CONFIG_FILE, GATE_FILE, AlignerConfig
from aligner_integrations.templates import Template
from aligner_integrations.training import card
from aligner_integrations.training.data import edits_of
from aligner_integrations.training.gate import KEEP, FittedGate, GateExample, areas, fit_gate
from aligner_integrations.training.provenance import (
    digest,
    digest_of_base,
    digest_of_files,
    read_result,
    read_stage,
    write_stage,
    written_beside,
)
from aligner_integrations.training.recipes import Recipe
from aligner_integrations.training.sft import TrainingReport, keep_freed_memory, train
from aligner_integrations.training.telling import quiet
from aligner_integrations.triples import Triple

logger = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
GATE_REPORT = "gate.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
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


@quiet()
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
    """Train and save weights, tokenizer, `aligner_config.json` and `training.json`; skipped if that is done.

    Raises:
        ConfigurationError: The folder holds the result of other rows, another base, template, recipe or start.
    """
    made_of = {
        "data": digest(triples),
        "base": digest_of_base(base, revision),
        "template": digest([template.to_dict()]),
        "recipe": digest([dataclasses.asdict(recipe)]),
        "start": "" if start is None else digest_of_files(*(start / name for name in ADAPTER_FILES)),
    }
    if read_stage(output / TRAINING_FILE, made_of) is not None:
        return
    if not torch.cuda.is_available():
        keep_freed_memory()
    dtype = quick_dtype() if recipe.method == "lora" else torch.float32
    model, tokenizer = load_base(base, revision, dtype=dtype)
    trained = train(model, tokenizer, template, triples, recipe, output / "checkpoints", start, made_of)
    if not is_main_process():
        return
    result: Any = trained.model
    name = card.base_name(base)
    with written_beside(output) as folder:
        if recipe.method == "lora":
            result.peft_config["default"].base_model_name_or_path = name
            result.peft_config["default"].revision = revision
            result.save_pretrained(folder, state_dict=trained.state, save_embedding_layers=False)
            AlignerConfig(template, name, revision, edits=edits_of(triples)).save(folder)
        else:
            result.save_pretrained(folder, state_dict=trained.state)
            tokenizer.save_pretrained(folder)
            AlignerConfig(template, edits=edits_of(triples)).save(folder)
    write_stage(output / TRAINING_FILE, trained.report.to_dict(), made_of)


def fit_own_gate(
    output: Path,
    train_on: Sequence[GateExample],
    tune_on: Sequence[GateExample],
    seed: int,
    *,
    report_on: Sequence[GateExample] = (),
    keep: Mapping[str, float] = KEEP,
    learn_in: str | None = None,
) -> None:
    """Train the gate of a saved aligner and store it beside the weights; skipped if that is done.

    Args:
        output: The aligner's folder.
        train_on: What it learns from.
        tune_on: What its thresholds are chosen on.
        seed: Which tokens of long answers are learnt from.
        report_on: What the area under its curves is measured on; none: it is not measured.
        keep: By what there is to object to: the share of good tuning answers that the gate must let be.
        learn_in: A torch dtype that the examples to learn from are read in, where that is quicker; thresholds never are.

    Raises:
        ConfigurationError: There is one that was learnt on other weights or answers.
    """
    made_of = {
        "weights": digest_of_weights(output),
        "data": digest([*train_on, *tune_on, *report_on, seed, sorted(keep.items()), learn_in]),
    }
    if read_stage(output / GATE_REPORT, made_of) is not None:
        return
    template = AlignerConfig.read(output / CONFIG_FILE).template
    weights = load_weights(str(output), None, None, None, None)
    coarse = load_weights(str(output), None, None, learn_in, None) if learn_in else None
    fitted = fit_gate(
        weights,
        template,
        train_on,
        tune_on,
        layers=layers_for_gates(weights),
        keep=keep,
        seed=seed,
        progress=_log_progress,
        learn_with=coarse,
    )
    store_gate(output, fitted)
    held_out = areas(coarse or weights, template, fitted.probe, report_on) if report_on else {}
    write_stage(output / GATE_REPORT, {**_gate_report(fitted, train_on, tune_on), "areas": held_out}, made_of)


def layers_for_gates(weights: Weights) -> list[int]:
    """The layers whose hidden states are tried: half-way up and above (paper, appendix B.6)."""
    depth = weights.model.config.get_text_config().num_hidden_layers
    return sorted({round(depth * share) for share in (0.5, 0.67, 0.87)})


def store_gate(output: Path, fitted: FittedGate) -> None:
    """Put a gate beside an aligner's weights, and its thresholds into the configuration."""
    answers = fitted.probe.answers
    with written_beside(output) as folder:
        fitted.probe.save(folder / GATE_FILE)
        dataclasses.replace(
            AlignerConfig.read(output / CONFIG_FILE),
            gate=fitted.threshold,
            gate_layer=fitted.probe.layer,
            objections={kind: one.threshold for kind, one in fitted.whole.items()},
            objections_layer=None if answers is None else answers.layer,
        ).save(folder)


def digest_of_weights(output: Path) -> str:
    """Name a trained aligner's weights, with the strength of an adapter."""
    return digest_of_files(*(output / name for name in ADAPTER_FILES), *sorted(output.glob("model*.safetensors")))


def read_report(output: Path) -> TrainingReport:
    """Read the `training.json` of a finished training."""
    data = read_result(output / TRAINING_FILE) or {}
    data["curve"] = [tuple(point) for point in data["curve"]]
    return TrainingReport(**data)


def _gate_report(fitted: FittedGate, train_on: Sequence[GateExample], tune_on: Sequence[GateExample]) -> dict[str, Any]:
    return {
        "layer": fitted.probe.layer,
        "threshold": fitted.threshold,
        "good_kept": fitted.good_kept,
        "bad_flagged": fitted.bad_flagged,
        "whole_layer": None if fitted.probe.answers is None else fitted.probe.answers.layer,
        "whole": {kind: dataclasses.asdict(one) for kind, one in fitted.whole.items()},
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
