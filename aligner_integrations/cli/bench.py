"""`aligner bench`: what drafting from the answer and the gate save. The measuring lives in `evaluation/bench.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli.console import dump_json, echo, echo_json, note, print_table, progress
from aligner_integrations.cli.evaluate import first_rows
from aligner_integrations.cli.options import JsonOption, ModelOption, TemplateOption

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner


def bench(
    rows: Annotated[Path, typer.Option(help="Rows to correct, as for aligner evaluate quality.")],
    model: ModelOption = None,
    template: TemplateOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only the first N rows of each kind.", metavar="N")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each row is corrected in each way.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw the speed-ups here (.png, .svg or .pdf).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report here, as JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time corrections by plain generate, by transformers' prompt lookup, and by drafting from the answer.

    The ways take turns row by row, and their texts are compared: drafting must not change any.
    """
    from aligner_integrations.evaluation.bench import bench as measure
    from aligner_integrations.evaluation.rows import read_rows

    chosen = first_rows(read_rows(rows), limit)
    ways = _ways(model, template)
    with progress("measuring", len(chosen) * len(ways) * repeats) as done:
        report = measure(ways, chosen, repeats=repeats, on_progress=done)
    if plot is not None:
        report.plot(plot)
    if output is not None:
        output.write_text(dump_json(report.to_dict(), indent=2) + "\n", "utf-8")
    if as_json:
        echo_json(report.to_dict())
        return
    print_table(report.table(), numbers=True)
    for way, number, expected, text in report.differences:
        if way != "gate and drafts":  # a gate is there to change what is corrected
            echo(f"{way}, row {number + 1} differs: {text!r} instead of {expected!r}")
    note(f"Times are those of whole corrections, one at a time, compared with {report.reference}.")


def _ways(model: str | None, template: str | None) -> dict[str, Aligner]:
    """Return an aligner for each way of decoding; they share their weights."""
    from aligner_integrations.aligner import Aligner
    from aligner_integrations.backends.local import LocalBackend

    name = model or os.environ.get("ALIGNER_MODEL") or "embedded"

    def aligner(backend: LocalBackend, *, gate: bool = False) -> Aligner:
        return Aligner(
            backend=backend, template=template, gate=None if gate else False, on_error="keep", on_overflow="keep"
        )

    drafting = LocalBackend(name)
    ways = {
        "generate": aligner(LocalBackend(name, drafts=False)),
        "prompt lookup": aligner(LocalBackend(name, generation={"prompt_lookup_num_tokens": 10})),
        "drafts": aligner(drafting),
    }
    if drafting.gate is not None:
        ways["gate and drafts"] = aligner(drafting, gate=True)
    return ways
