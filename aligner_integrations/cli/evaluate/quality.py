"""`aligner evaluate quality`: the table of figures from any file of rows. The measures live in `evaluation/quality.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import progress
from aligner_integrations.cli.evaluate.family import ReportOptions
from aligner_integrations.cli.options import AlignerOptions, Edits
from aligner_integrations.errors import ConfigurationError

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner
    from aligner_integrations.evaluation.rows import Row


@options.takes_options
def quality(
    rows: Annotated[Path, typer.Option(help="Rows to measure on, JSON Lines (.gz too).")],
    *,
    which: AlignerOptions,
    gate: Annotated[bool, typer.Option(help="Measure with the aligner's own gate, or without any.")] = True,
    both: Annotated[bool, typer.Option("--both", help="Measure with and without the gate, side by side.")] = False,
    marked: Annotated[
        bool, typer.Option("--marked", help="Also measure with edits taken back where the gate asks for none.")
    ] = False,
    shown: ReportOptions,
) -> None:
    """Measure how much stays rude, how much good text is changed, and what is lost around an edit.

    A row is {"kind": "rude" | "good" | "mixed", "source", "question", "answer"}, with "references" (human rewrites) if rude
    and "inserted" (the rude sentence) if mixed.
    """
    from aligner_integrations.evaluation.quality import evaluate, read_rows

    if both and not gate:
        raise typer.BadParameter("it measures without the gate already.", param_hint="--both")
    chosen = first_rows(read_rows(rows), shown.limit)
    aligners = _settings(which, gate=gate or both, no_gate=both or not gate, marked=marked)
    order = list(aligners)
    with progress("measuring", len(chosen) * len(order)) as done:
        report = evaluate(aligners, chosen, on_progress=lambda name, rows: done(order.index(name) * len(chosen) + rows))
    shown.show(report)


def first_rows(rows: list[Row], limit: int | None) -> list[Row]:
    """Return the first `limit` rows of each kind; all of them if there is no limit."""
    if limit is None:
        return rows
    chosen: list[Row] = []
    for row in rows:
        if sum(one.kind == row.kind for one in chosen) < limit:
            chosen.append(row)
    return chosen


def _settings(which: AlignerOptions, *, gate: bool, no_gate: bool, marked: bool) -> dict[str, Aligner]:
    """Return an aligner for each setting to measure; they share their weights."""
    aligners = {}
    if gate:
        own = options.make_aligner(which)
        if own.backend.gate is not None:
            aligners["gate"] = own
        elif no_gate:
            raise ConfigurationError(
                "This aligner has no gate of its own, so there is nothing to compare: leave out --both."
            )
        else:
            no_gate = True  # the figures are those without a gate, and are called so
    if no_gate:
        aligners["no gate"] = options.make_aligner(which, gate=False, edits=Edits.ALL)
    if marked:
        aligners["marked edits"] = options.make_aligner(which, gate=gate, edits=Edits.MARKED)
    return aligners
