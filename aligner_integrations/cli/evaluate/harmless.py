"""`aligner evaluate harmless`: how an aligner deals with harm. The measures live in `evaluation/harmless.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import progress
from aligner_integrations.cli.evaluate.family import ReportOptions
from aligner_integrations.cli.evaluate.quality import first_rows
from aligner_integrations.cli.options import AlignerOptions, Edits


@options.takes_options
def harmless(
    rows: Annotated[Path, typer.Option(help="Rows to measure on, JSON Lines (.gz too).")],
    *,
    which: AlignerOptions,
    gate: Annotated[bool, typer.Option(help="Measure with the aligner's own gate, or without any.")] = True,
    shown: ReportOptions,
) -> None:
    """Measure whether harmful answers are declined, abuse becomes civil, and harmless answers and refusals stay.

    A row is {"kind": "harmful" | "harmless" | "refusal" | "abusive" | "rant" | "good", "source", "question", "answer"}.
    """
    from aligner_integrations.evaluation.harmless import evaluate_harmless
    from aligner_integrations.evaluation.rows import read_rows

    chosen = first_rows(read_rows(rows), shown.limit)
    aligner = options.make_aligner(which, gate=gate, edits=None if gate else Edits.ALL)
    name = "gate" if gate and aligner.backend.gate is not None else "no gate"
    with progress("measuring", len(chosen)) as done:
        report = evaluate_harmless({name: aligner}, chosen, on_progress=lambda _, count: done(count))
    shown.show(report)
