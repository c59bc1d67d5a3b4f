"""`aligner calibrate`: a gate with a promise. What is computed: `evaluation/calibration.py`; what is learnt: `evaluation/score_gate.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import note, progress
from aligner_integrations.cli.evaluate.family import ReportOptions
from aligner_integrations.cli.options import AlignerOptions
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.models import CONFIG_FILE, EMBEDDED, AlignerConfig

if TYPE_CHECKING:
    from aligner_integrations.evaluation.calibration import Calibration, Scored
    from aligner_integrations.gate_file import LearntGate
    from aligner_integrations.training.gate import FittedGate


@options.takes_options
def calibrate(
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="ROWS",
            help="A win-rate file: what aligner evaluate win-rate leaves in --keep, or aligner evaluate rows --verdicts writes.",
        ),
    ],
    *,
    loss_rate: Annotated[
        float,
        typer.Option(help="Highest share of all answers that may be corrected and worse for it.", metavar="SHARE"),
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="With which probability that is kept.", metavar="SHARE")] = 0.9,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Learn a gate from half of the rows first, for an aligner that brought none: with --folder from its hidden states, else "
            "from its probabilities, here or on a server.",
        ),
    ] = False,
    which: AlignerOptions,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Write the threshold, with its promise, into this aligner's folder; with --learn also the gate.",
            metavar="DIR",
        ),
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(help="Write a gate that Aligner(gate=FILE) takes, for any other aligner.", metavar="FILE.json"),
    ] = None,
    shown: ReportOptions,
) -> None:
    """Set a gate's threshold so that corrections are worse than the answer no more often than promised.

    Take rows like those that the gate is for, corrected without a gate (--no-gate). Where nothing can be promised, it says so, and
    exits with 1.
    """
    from aligner_integrations.evaluation.calibration import calibrate as find
    from aligner_integrations.evaluation.calibration import read_scored

    if folder is not None and learn and gate is not None:
        raise typer.BadParameter("a gate that is learnt goes into a folder or into a file.", param_hint="--gate")
    if folder is not None:
        _check_folder(folder, learn=learn)
    scored = read_scored(rows, scores=not learn)[: shown.limit]
    learnt = inside = None
    if learn and folder is not None:
        inside, scored = _learnt_inside(scored, folder)
    elif learn:
        learnt, scored = _learnt(scored, which)
    found = find(scored, loss_rate, confidence)
    shown.show(found)
    if found.chosen is None:
        raise ConfigurationError(f"Nothing can be promised: {found.reason}")
    if gate is not None:
        _write_gate(gate, found, learnt, rows)
        note(f"Use it: Aligner(gate={str(gate)!r})")
    if folder is not None:
        if inside is not None:
            from aligner_integrations.training.run import store_gate

            store_gate(folder, dataclasses.replace(inside, threshold=_threshold(found)))
        _write_config(folder, found, rows)
        note(f"The gate of {folder} has the new threshold.")


def _learnt(scored: list[Scored], which: AlignerOptions) -> tuple[LearntGate, list[Scored]]:
    """Learn on one half of the questions, and return the other half with the scores that were learnt."""
    from aligner_integrations.evaluation.score_gate import fit, halves, scores_of

    aligner = options.make_aligner(which)
    learning, calibrating = halves(scored)
    with progress("judging answers", len(scored)) as done:
        gate = fit(scores_of(aligner, learning, on_progress=done))
        judged = scores_of(aligner, calibrating, on_progress=lambda count: done(len(learning) + count))
    return gate, [dataclasses.replace(one, score=gate.value(score)) for one, score in judged]


def _learnt_inside(scored: list[Scored], folder: Path) -> tuple[FittedGate, list[Scored]]:
    """Learn from the hidden states of the aligner in a folder, and return the rows that it has not learnt from."""
    with require(
        "train", "Learning a gate from hidden states needs {missing}", "torch", "transformers", "accelerate", "peft"
    ):
        from aligner_integrations.training.learnt_gate import learn

    with progress("reading answers", len(scored)) as done:
        return learn(folder, scored, on_progress=lambda count, _: done(count))


def _check_folder(folder: Path, *, learn: bool) -> None:
    if folder.resolve().is_relative_to(EMBEDDED.parent.resolve()):
        raise ConfigurationError(
            "The installed package is never written to. Write a gate of its own instead: --gate FILE.json."
        )
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigurationError(f"{folder} is no aligner's folder: it has no {CONFIG_FILE}. Use --gate FILE.json.")
    config = AlignerConfig.read(folder / CONFIG_FILE)  # so that a damaged one is found before anything is computed
    if learn and config.gate_layer is not None:
        raise ConfigurationError(
            f"The aligner in {folder} has a gate already; without --learn its threshold is calibrated."
        )


def _write_gate(path: Path, found: Calibration, learnt: LearntGate | None, rows: Path) -> None:
    from aligner_integrations.gate_file import write_gate

    threshold = _threshold(found)
    write_gate(
        path,
        threshold if learnt is None else dataclasses.replace(learnt, threshold=threshold),
        found.promise(rows.name),
    )


def _write_config(folder: Path, found: Calibration, rows: Path) -> None:
    path = folder / CONFIG_FILE
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    data |= {"gate": _threshold(found), "gate_promise": found.promise(rows.name)}
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    beside.replace(path)


def _threshold(found: Calibration) -> float:
    if found.chosen is None:
        raise ConfigurationError(f"Nothing can be promised: {found.reason}")
    return found.chosen.threshold
