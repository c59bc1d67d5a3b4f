"""`aligner correct`: one answer, from the arguments or standard input. Many of them: `corpus.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import console, correction_note, diff_text, echo, echo_json, note
from aligner_integrations.cli.options import (
    AlignerOptions,
    EditsOption,
    FieldOption,
    GateOption,
    JsonOption,
    OnError,
    RecordOption,
)
from aligner_integrations.errors import InvalidTextError


@options.takes_options
def correct(
    question: Annotated[str | None, typer.Argument(help="What the upstream was asked.", show_default=False)] = None,
    answer: Annotated[
        str | None, typer.Argument(help='What it answered; "-" or nothing: standard input.', show_default=False)
    ] = None,
    asked: Annotated[
        str | None, typer.Option("--question", "-q", help="The question, when the only argument is the answer or -.")
    ] = None,
    rows: Annotated[str | None, typer.Option("--input", "-i", "--output", "-o", hidden=True)] = None,
    *,
    which: AlignerOptions,
    field: FieldOption = None,
    gate: GateOption = True,
    edits: EditsOption = None,
    on_error: Annotated[OnError, typer.Option(help="What to show when there is no correction.")] = OnError.RAISE,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changed instead of the corrected text.")] = False,
    record: RecordOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Correct one answer.

    Control characters in the text are shown as escapes such as \x1b; --json gives it to the letter.
    """
    fields = options.fields_of(field)
    if rows is not None:
        raise typer.BadParameter(
            "files of rows have a command of their own: aligner corpus IN.jsonl OUT.jsonl",
            param_hint="--input, --output",
        )
    if diff and as_json:
        raise typer.BadParameter("it goes without --json.", param_hint="--diff")
    pair = pair_of([text for text in (question, answer) if text is not None], asked)
    aligner = options.make_aligner(which, gate=gate, edits=edits, on_error=on_error)
    options.load(aligner)
    with options.recording(aligner, record) as aligner:
        correction = aligner.correct(*pair, **fields)
    if as_json:
        echo_json(correction.to_dict())
        return
    if diff:
        out = console()
        out.print(diff_text(correction.diff(), out))
    else:
        echo(correction.text)
    if diff or correction.outcome == "failed":
        note(correction_note(correction))


def pair_of(arguments: Sequence[str], asked: str | None) -> tuple[str, str]:
    """Return question and answer from what stands on the command line and on standard input."""
    if asked is not None:
        if len(arguments) == 2:
            raise typer.BadParameter("the question is there twice.", param_hint="--question")
        arguments = [asked, *arguments]
    elif arguments and arguments[0] == "-":
        raise typer.BadParameter("it is needed when the answer comes from standard input.", param_hint="--question")
    if not arguments:
        raise typer.BadParameter("a question and an answer are needed.", param_hint="QUESTION")
    if len(arguments) == 1 and sys.stdin.isatty():
        raise typer.BadParameter("an answer is needed, here or on standard input.", param_hint="ANSWER")
    answer = arguments[1] if len(arguments) == 2 else "-"
    return arguments[0], _read_stdin() if answer == "-" else answer


def _read_stdin() -> str:
    """Standard input as UTF-8, without the line end that `echo` and text files put at the end."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidTextError(f"Standard input is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    return text.removesuffix("\n").removesuffix("\r")
