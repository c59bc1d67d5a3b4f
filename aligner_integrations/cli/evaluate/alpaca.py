"""`aligner evaluate alpaca`: AlpacaEval's win rates from files. The measures live in `evaluation/alpaca.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import echo_json, note, print_table
from aligner_integrations.cli.evaluate.family import ReportOptions


@options.takes_options
def alpaca(
    *,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(
            help="Annotations of a model, as AlpacaEval writes them (.json, .json.gz); may be given several times."
        ),
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option(help="Difficulties of the instructions (CSV); for length-controlled win rates.")
    ] = None,
    gamed: Annotated[
        Path | None,
        typer.Option(help="Rows of the baseline made verbose and concise (CSV); for length-controlled win rates."),
    ] = None,
    leaderboard: Annotated[
        Path | None, typer.Option(help="The published leaderboard (CSV): print the rows of Aligner-2B in it.")
    ] = None,
    shown: ReportOptions,
) -> None:
    """Compute AlpacaEval 2.0's win rates, raw and length-controlled, from annotation files; no network and no alpaca-eval.

    The data are under CC BY-NC 4.0, and none of them come with this package.
    """
    from aligner_integrations.evaluation.alpaca import evaluate
    from aligner_integrations.evaluation.alpaca_files import aligner_rows, read_annotations

    if not annotations and leaderboard is None:
        raise typer.BadParameter("annotations or a leaderboard are needed.", param_hint="--annotations")
    if leaderboard is not None:
        lines = aligner_rows(leaderboard)
        if not annotations:
            if shown.as_json:
                header, *rows = lines
                echo_json([dict(zip(["model", *header[1:]], row, strict=True)) for row in rows])
            else:
                print_table(lines, numbers=True)
            note(
                "Aligner-2B's annotations are not to be had, so its rates are those of the leaderboard and cannot be computed again."
            )
            return
        if not shown.as_json:
            print_table(lines, numbers=True)
    named = {path.name.removesuffix(".gz").removesuffix(".json"): path for path in annotations or ()}
    if len(named) < len(annotations or ()):
        raise typer.BadParameter("two of the files have the same name.", param_hint="--annotations")
    read = {name: read_annotations(path)[: shown.limit] for name, path in named.items()}
    report = evaluate(read, difficulty=difficulty, gamed=gamed)
    shown.show(report)
    for reason in dict.fromkeys(one.why_not for one in report.models.values() if one.why_not):
        note(reason)
