"""`aligner evaluate rows`: an aligner on one's own triples. The measures live in `evaluation/own_rows.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import progress
from aligner_integrations.cli.evaluate.family import ColumnOption, ReportOptions, SplitOption, columns_of
from aligner_integrations.cli.options import AlignerOptions
from aligner_integrations.errors import UnknownTemplateError

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner


@options.takes_options
def rows(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ROWS",
            help="Triples: a JSON Lines, CSV or Parquet file, a folder of these, or a data set on the Hub.",
        ),
    ],
    *,
    which: AlignerOptions,
    base: Annotated[
        str | None,
        typer.Option(
            help="Also measure another aligner, or the model that this one was trained from (asked through its template).",
            metavar="MODEL",
        ),
    ] = None,
    gate: Annotated[bool, typer.Option(help="Measure with the aligner's own gate, or without any.")] = True,
    verdicts: Annotated[
        Path | None,
        typer.Option(
            help="Also write each row with its verdict and the gate's score, for aligner calibrate; goes with --no-gate.",
            metavar="FILE.jsonl",
        ),
    ] = None,
    column: ColumnOption = None,
    split: SplitOption = "train",
    shown: ReportOptions,
) -> None:
    """Measure how close corrections come to those of your own rows, what they keep, and how often they are worse.

    A row is {"question", "answer", "correction"}, or {"prompt", "rejected", "chosen"}; copying the answer is measured beside.
    """
    from aligner_integrations.evaluation.corrected import gate_scores
    from aligner_integrations.evaluation.own_rows import evaluate, write_verdicts
    from aligner_integrations.triples import read_triples

    if verdicts is not None and gate:
        raise typer.BadParameter("it goes with --no-gate: kept answers have no verdict.", param_hint="--verdicts")
    triples = read_triples(source, split=split, columns=columns_of(column))[: shown.limit]
    aligners = {which.model or which.endpoint or which.chat_model or "aligner": options.make_aligner(which, gate=gate)}
    if base is not None:
        name = base if base not in aligners else f"{base} (base)"
        aligners[name] = _base(base, next(iter(aligners.values())), gate=gate)
    order = list(aligners)
    with progress("measuring", len(triples) * len(order)) as done:
        report = evaluate(
            aligners, triples, on_progress=lambda name, count: done(order.index(name) * len(triples) + count)
        )
    if verdicts is not None:
        name, aligner = next(iter(aligners.items()))
        scores = gate_scores(aligner, [(triple.question, triple.answer) for triple in triples])
        write_verdicts(verdicts, triples, report.texts[name], scores)
    shown.show(report)


def _base(model: str, aligner: Aligner, *, gate: bool) -> Aligner:
    """Another aligner under its own template; a model that knows none is asked through that of the aligner it became."""
    other = options.make_aligner(AlignerOptions(model=model), gate=gate)
    try:
        other.template  # noqa: B018 - whether it knows one
    except UnknownTemplateError:
        return other.with_options(template=aligner.template)
    return other
