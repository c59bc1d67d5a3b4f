"""What all measures share on the command line: how many rows, and where the report goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli.console import dump_json, echo_json, note, print_table
from aligner_integrations.cli.options import JsonOption, LimitOption

if TYPE_CHECKING:
    from aligner_integrations.evaluation.report import Report

ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A column that has another name in the rows, such as answer=draft; may be given several times.",
        metavar="NAME=THEIRS",
    ),
]
SplitOption = Annotated[str, typer.Option(help="Split of a data set on the Hub.")]


def columns_of(given: list[str] | None) -> dict[str, str]:
    """Return name -> name in the rows.

    Raises:
        typer.BadParameter: One is no pair.
    """
    pairs = [one.partition("=") for one in given or ()]
    if wrong := [name for name, _, theirs in pairs if not (name and theirs)]:
        raise typer.BadParameter(f"{wrong[0]!r} is not NAME=THEIRS.", param_hint="--column")
    return {name: theirs for name, _, theirs in pairs}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """Options of every measure. A command takes them all with one parameter; see `options.takes_options`.

    Attributes:
        limit: How many rows of each kind are measured; None: all.
        output: Where the figures are written.
        report: Where the page is written.
        as_json: Whether the figures go to standard output as JSON instead of a table.
    """

    limit: LimitOption = None
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the figures here: .md as a table, anything else as JSON."),
    ] = None
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page to look at: figures, plots, and rows with what changed.", metavar="FILE.html"
        ),
    ] = None
    as_json: JsonOption = False

    def check(self) -> None:
        """Refuse, before anything is measured, what could not be written after it.

        Raises:
            typer.BadParameter: There is no such folder, or both are the same file.
        """
        for name, path in (("--output", self.output), ("--report", self.report)):
            if path is not None and not path.parent.is_dir():
                raise typer.BadParameter(f"there is no folder {path.parent}.", param_hint=name)
        if self.output is not None and self.output == self.report:
            raise typer.BadParameter("it is the same file as --output.", param_hint="--report")
        if self.report is not None:
            from aligner_integrations.evaluation.html import require_packages

            require_packages()

    def show(self, report: Report) -> None:
        """Write a report where it is wanted."""
        from aligner_integrations.evaluation.html import write
        from aligner_integrations.evaluation.report import markdown, measured_with

        if self.output is not None:
            as_markdown = self.output.suffix == ".md"
            text = markdown(report) if as_markdown else dump_json(report.to_dict(), indent=2) + "\n"
            self.output.write_text(text, "utf-8")
        if self.report is not None:
            write(self.report, report.page())
        if self.as_json:
            echo_json(report.to_dict())
            return
        print_table(report.table(), numbers=True)
        note(measured_with(report.versions))
        if self.report is not None:
            note(f"To look at: {self.report}")
