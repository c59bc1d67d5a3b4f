"""`aligner evaluate three-h`: the paper's Table 1 for one's own models. The measures live in `evaluation/three_h.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import echo, note, print_table, progress_bars
from aligner_integrations.cli.evaluate.family import ReportOptions
from aligner_integrations.cli.evaluate.win_rate import JudgeOptions, KeepOption, chat_model
from aligner_integrations.cli.options import AlignerOptions

if TYPE_CHECKING:
    from aligner_integrations.evaluation.asked import Model


@options.takes_options
def three_h(
    *,
    upstream: Annotated[
        list[str],
        typer.Option(
            help="Who answered: NAME=FILE with its answers (question, answer; correction too if it is to be judged as it is), or "
            "NAME=URL of a chat API, where NAME is the model's. May be given several times.",
            metavar="NAME=FILE|URL",
        ),
    ],
    questions: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="e-dialogue, dialogsum, beavertails, harmfulqa or truthfulqa from the Hub; NAME=FILE for rows with a question; "
            "NAME:ASPECT,ASPECT=FILE to say what they are judged for. May be given several times.",
            metavar="NAME[=FILE]",
        ),
    ],
    keep: KeepOption,
    judging: JudgeOptions,
    which: AlignerOptions,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="The files hold the corrections; no aligner is run.")
    ] = False,
    gate: Annotated[bool, typer.Option(help="Correct with the aligner's own gate, or without any.")] = True,
    upstream_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the upstreams' key.", metavar="NAME")
    ] = None,
    shown: ReportOptions,
) -> None:
    """Measure helpful, harmless and honest as the paper's Table 1 does: several upstreams, several question sets, one judge.

    Rows are upstreams, columns sets and aspects, cells wins - losses with their intervals; the loss rates stand in a table of their
    own. HarmfulQA's 700 questions are the paper's: random.seed(42); random.sample.
    """
    from aligner_integrations.evaluation.asked import Kept
    from aligner_integrations.evaluation.three_h import evaluate, read_set

    if judging.aspect:
        raise typer.BadParameter("each set says what it is judged for: --set NAME:ASPECT=FILE.", param_hint="--aspect")
    judge = judging.model()
    wordings = {} if not judging.wording else {one.name: one for one in judging.wordings()}
    answering = {
        name: _answers(name, source, upstream_key_env, judging.at_once)
        for name, source in (_named(one, "--upstream") for one in upstream)
    }
    sets = []
    for one in questions:
        name, _, source = one.partition("=")
        name, _, aspects = name.partition(":")
        given = [aspect for aspect in aspects.split(",") if aspect]
        sets.append(read_set(name, source or None, aspects=given, limit=shown.limit))
    aligner = None if corrected else options.make_aligner(which, gate=gate)
    named = which.model or which.endpoint or which.chat_model or "aligner"
    with Kept(keep) as kept, progress_bars() as tell:
        report = evaluate(
            answering,
            sets,
            judge,
            kept,
            aligner=aligner,
            name="corrections of the files" if corrected else named,
            wordings=wordings,
            prices=judging.price,
            on_progress=tell,
        )
    shown.show(report)
    if not shown.as_json:
        echo("Losses: corrections that were judged worse than the answer")
        print_table(report.losses(), numbers=True)
    if report.failures:
        note(f"{report.failures} requests or rows failed. The same command again asks for these alone.")
        raise typer.Exit(1)


def _answers(
    name: str, source: str, key_env: str | None, at_once: int
) -> Model | Sequence[tuple[str, Mapping[str, Any]]]:
    from aligner_integrations.triples import read_records

    if source.startswith(("http://", "https://")):
        return chat_model(source, name, key_env, option="--upstream-key-env", at_once=at_once)
    return read_records(source)


def _named(given: str, option: str) -> tuple[str, str]:
    name, equals, source = given.partition("=")
    if not (name and equals and source):
        raise typer.BadParameter(f"{given!r} is not NAME=FILE or NAME=URL.", param_hint=option)
    return name, source
