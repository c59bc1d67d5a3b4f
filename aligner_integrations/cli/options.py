"""What the commands share: common options, groups of commands, and the one place where an `Aligner` is made."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli.console import echo

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner


class OnError(StrEnum):
    """Choices of `--on-error`; the policies of `Aligner`."""

    RAISE = "raise"
    KEEP = "keep"
    BLOCK = "block"


class Edits(StrEnum):
    """Choices of `--edits`."""

    ALL = "all"
    MARKED = "marked"
    GUARDED = "guarded"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help='Hub id, folder or "embedded". Default: the variable ALIGNER_MODEL, else embedded.',
        metavar="MODEL",
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(help="Prompt template, if not the checkpoint's own (aligner models --templates).", metavar="NAME"),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Take only the first N rows of each kind.", metavar="N")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to standard output; errors too.")]


def group(words: str) -> typer.Typer:
    """Return a group of commands, which shows its help where no command is named."""

    def root(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            echo(context.get_help())

    return typer.Typer(help=words, callback=root, invoke_without_command=True)


def make_aligner(
    model: str | None,
    template: str | None = None,
    *,
    gate: bool = True,
    edits: Edits | None = None,
    on_error: OnError = OnError.RAISE,
) -> Aligner:
    """Return the aligner a command works with. Weights load at its first use.

    Args:
        model: Hub id, folder, "embedded", or None for the default.
        template: Template name or text, or None for the checkpoint's own.
        gate: Whether the aligner's own gate is on.
        edits: Which edits are taken over, or None for as the aligner says of itself.
        on_error: What is shown when there is no correction, be it by an error or because the answer is too long.

    Raises:
        AlignerError: The options do not fit, or the model cannot be had.
    """
    from aligner_integrations.aligner import Aligner

    return Aligner(
        model,
        template=template,
        gate=None if gate else False,
        edits=None if edits is None else edits.value,
        on_error=on_error.value,
        on_overflow=on_error.value,
    )
