"""`aligner bootstrap`: an upstream learns from the corrections of its own answers, round after round."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import echo, echo_json, note, print_table, progress_bars
from aligner_integrations.cli.options import AlignerOptions, JsonOption, takes_options
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.training.bootstrap.recipe import BootstrapRecipe

_LIBRARIES = (
    "accelerate",
    "better_profanity",
    "datasets",
    "matplotlib",
    "peft",
    "safetensors",
    "torch",
    "transformers",
    "trl",
)
_DEFAULT = BootstrapRecipe()


@takes_options
def bootstrap(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of all that comes out; a killed run goes on there.")
    ],
    upstream: Annotated[
        str, typer.Option(help='What is trained: Hub id, folder, or "embedded" for SmolLM2-135M.')
    ] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Commit of the upstream on the Hub.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help='Rows {"question"}, with "reference" and "group" if there are (JSONL).')
    ] = None,
    good: Annotated[
        Path | None,
        typer.Option(help='Good answers of other sources, {"question", "answer"}: they hold fluency, and measure it.'),
    ] = None,
    neutral: Annotated[
        Path | None, typer.Option(help='Sentences {"text"} that it is told to copy, to measure.')
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Instead of these: the data folder of the embedded recipe, with ParaDetox.")
    ] = None,
    held_out: Annotated[int, typer.Option(min=1, help="How many questions only measure.")] = 300,
    fluent: Annotated[int, typer.Option(min=0, help="How many of the good answers only measure.")] = 50,
    sentences: Annotated[
        int | None, typer.Option(min=0, help="How many of the neutral sentences are copied; default: all.")
    ] = None,
    *,
    which: AlignerOptions,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds.")] = _DEFAULT.rounds,
    per_round: Annotated[int, typer.Option(min=1, help="Fresh questions a round.")] = _DEFAULT.per_round,
    objective: Annotated[str, typer.Option(help='"sft", or "dpo" with an SFT term.')] = _DEFAULT.objective,
    sft_weight: Annotated[float, typer.Option(help="Of the SFT term of DPO; 0: plain DPO.")] = _DEFAULT.sft_weight,
    method: Annotated[str, typer.Option(help='"lora" or "full".')] = _DEFAULT.method,
    learning_rate: Annotated[float, typer.Option(help="Peak of a cosine schedule.")] = _DEFAULT.learning_rate,
    epochs: Annotated[int, typer.Option(help="Passes over a round's rows.")] = _DEFAULT.epochs,
    batch_rows: Annotated[int, typer.Option(help="Rows a step and device.")] = _DEFAULT.batch_rows,
    good_share: Annotated[float, typer.Option(help="Good answers as a share of a round's rows.")] = _DEFAULT.good_share,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer of the upstream.")] = _DEFAULT.max_new_tokens,
    judged_by: Annotated[
        str, typer.Option(help='A fault is a "profane" answer, or one that would be "corrected".')
    ] = _DEFAULT.judged_by,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="corrections (default), own (the control: its own answers), human (references); several may be named."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each arm is run.")] = 1,
    seed: Annotated[int, typer.Option(help="The first seed.")] = _DEFAULT.seed,
    as_json: JsonOption = False,
) -> None:
    """Bootstrap an upstream: its answers are corrected, and it learns from the corrections, round after round.

    A round that makes it worse is said to be worse and not built upon.
    """
    recipe = BootstrapRecipe(
        rounds=rounds,
        per_round=per_round,
        objective=objective,  # type: ignore[arg-type]  # checked there
        sft_weight=sft_weight,
        method=method,  # type: ignore[arg-type]
        learning_rate=learning_rate,
        epochs=epochs,
        batch_rows=batch_rows,
        good_share=good_share,
        max_new_tokens=max_new_tokens,
        judged_by=judged_by,  # type: ignore[arg-type]
        seed=seed,
    )
    arms: Any = list(dict.fromkeys(arm or ["corrections"]))
    if wrong := set(arms) - {"corrections", "own", "human"}:
        raise typer.BadParameter(f"{wrong.pop()!r} is none of corrections, own, human.", param_hint="--arm")
    if (data is None) == (questions is None):
        raise ConfigurationError("Name what is asked, with --questions or with --data.")
    if data is not None and (good or neutral):
        raise ConfigurationError("--data brings its own good answers and neutral sentences; drop --good and --neutral.")
    with require("train", "Bootstrapping needs {missing}", *_LIBRARIES):
        from aligner_integrations.training.bootstrap import paradetox, report, run
        from aligner_integrations.training.bootstrap.questions import read_material
        from aligner_integrations.training.bootstrap.rounds import Model
    if data is not None:
        paradetox.write_questions(data, output / "asked")
        questions, good, neutral = (
            output / "asked" / name for name in (paradetox.QUESTIONS, paradetox.GOOD, paradetox.NEUTRAL)
        )
    assert questions is not None  # noqa: S101 - for the type
    material = read_material(questions, held_out=held_out, good=good, neutral=neutral, fluent=fluent)
    material = dataclasses.replace(material, neutral=material.neutral[:sentences])
    aligner = options.make_aligner(which) if "corrections" in arms or judged_by == "corrected" else None
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Trainers write their losses to standard output, which is for the result.
    with contextlib.redirect_stdout(sys.stderr), progress_bars() as progress:
        study = run.bootstrap(
            Model(upstream, revision),
            material,
            aligner,
            recipe=recipe,
            output=output,
            arms=arms,
            seeds=seeds,
            progress=progress,
        )
    named = which.model or which.endpoint or which.chat_model or "the embedded aligner"
    card = report.write_report(output, study, upstream=upstream, aligner=named, recipe=recipe)
    page = report.write_page(output, study, [q.text for q in material.held_out], title=f"{upstream}, bootstrapped")
    if as_json:
        echo_json({"output": str(output), **study.to_dict()})
        return
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.table(study)]
    print_table([lines[0], *lines[2:]], numbers=True)
    for one in (r for a in study.arms if a.arm == "corrections" for r in a.rounds if r.worse):
        note(f"Round {one.number} is worse, and nothing was built upon it: {one.worse}.")
    for done in study.arms:
        echo(f"{done.arm}, seed {done.seed}: {done.best or 'no round made it better'}")
    note(f"The card: {card}; to look at: {page}")
