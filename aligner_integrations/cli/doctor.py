"""`aligner doctor`: what is wrong with a server that is to run an aligner, and which flag mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import console, echo_json, note, progress, styled
from aligner_integrations.cli.options import AlignerOptions, JsonOption

if TYPE_CHECKING:
    from aligner_integrations.backends.remote.completions import CompletionsBackend
    from aligner_integrations.doctor.finding import Finding

_MARKS = {
    "good": ("ok", "green"),
    "wrong": ("wrong", "bold red"),
    "missing": ("could be", "yellow"),
    "unknown": ("?", "cyan"),
}


@options.takes_options
def doctor(*, which: AlignerOptions, as_json: JsonOption = False) -> None:
    """Ask a server what matters for an aligner, and say what is wrong with it and what mends that.

    Exit code 1 if something is wrong.
    """
    if which.endpoint is None:
        raise typer.BadParameter("it says which server to look at.", param_hint="--endpoint")
    from aligner_integrations.doctor.asking import Server
    from aligner_integrations.doctor.checks import CHECKS, examine

    backend = cast("CompletionsBackend", options.make_aligner(which).backend)
    findings = []
    with progress("asking", len(CHECKS)) as done:
        for finding in examine(Server(backend), which.template):
            findings.append(finding)
            done(len(findings))
    if as_json:
        echo_json([finding.to_dict() for finding in findings])
    else:
        _print(findings)
    wrong = sum(finding.verdict == "wrong" for finding in findings)
    if wrong:
        note(f"{wrong} of {len(findings)} things are wrong with {which.endpoint}.")
        raise typer.Exit(1)
    if not as_json:
        note(f"{which.endpoint} is fit for an aligner.")


def _print(findings: list[Finding]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        says = styled((finding.says, ""), *(((f"\n{finding.mend}", "dim"),) if finding.mend else ()))
        table.add_row(styled((mark, style)), styled((finding.check, "bold")), says)
    out = console()
    if not out.is_terminal:
        out.width = 120
    out.print(table, soft_wrap=False)
