"""`aligner correct`: one answer from the arguments or standard input, or many from JSON Lines."""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import (
    console,
    correction_note,
    diff_text,
    dump_json,
    echo,
    echo_json,
    note,
    progress,
)
from aligner_integrations.cli.options import AlignerOptions, Edits, JsonOption, OnError
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError, InvalidTextError
from aligner_integrations.jsonl import parse_jsonl, read_jsonl

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

CHUNK = 64
"""Rows corrected in one batch."""


@options.takes_aligner
def correct(
    question: Annotated[str | None, typer.Argument(help="What the upstream was asked.", show_default=False)] = None,
    answer: Annotated[
        str | None, typer.Argument(help='What it answered; "-" or nothing: standard input.', show_default=False)
    ] = None,
    asked: Annotated[
        str | None, typer.Option("--question", "-q", help="The question, when the only argument is the answer or -.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", "-i", help='Rows {"question", "answer"} as JSON Lines (.gz too); - is standard input.'),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the corrected rows go (.gz too). Default: standard output."),
    ] = None,
    *,
    which: AlignerOptions,
    field: Annotated[
        list[str] | None,
        typer.Option(help="An extra field of the template, such as aspects=Empathy.", metavar="NAME=TEXT"),
    ] = None,
    gate: Annotated[bool, typer.Option(help="Leave answers alone that the aligner's own gate finds good.")] = True,
    edits: Annotated[
        Edits | None,
        typer.Option(
            help="all: the aligner's own text; marked, guarded: take back edits that the gate does not ask for. "
            "Default: as the aligner says of itself."
        ),
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="What to show when there is no correction.")] = OnError.RAISE,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changed instead of the corrected text.")] = False,
    as_json: JsonOption = False,
) -> None:
    r"""Correct one answer, or a file of them.

    Control characters in the text are shown as escapes such as \x1b; --json and --output give it to the letter.
    """
    fields = dict(_named(one) for one in field or ())
    if diff and (as_json or source is not None):
        raise typer.BadParameter("it goes with a single answer and without --json.", param_hint="--diff")
    if source is not None:
        if question is not None or answer is not None or asked is not None:
            raise typer.BadParameter("it takes the place of QUESTION, ANSWER and --question.", param_hint="--input")
        if output is not None and output.resolve() == source.resolve():
            raise typer.BadParameter("it would overwrite --input.", param_hint="--output")
        rows = _read(source)
        aligner = options.make_aligner(which, gate=gate, edits=edits, on_error=on_error)
        _correct_rows(aligner, rows, source, output, fields, as_json=as_json)
        return
    if output is not None:
        raise typer.BadParameter("it goes with --input.", param_hint="--output")
    pair = _pair([text for text in (question, answer) if text is not None], asked)
    aligner = options.make_aligner(which, gate=gate, edits=edits, on_error=on_error)
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


def _named(option: str) -> tuple[str, str]:
    name, equals, text = option.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{option!r} is not NAME=TEXT.", param_hint="--field")
    return name, text


# One answer -----------------------------------------------------------------------------------------------------------


def _pair(arguments: Sequence[str], asked: str | None) -> tuple[str, str]:
    """Return question and answer from what stands on the command line and on standard input."""
    if asked is not None:
        if len(arguments) == 2:
            raise typer.BadParameter("the question is there twice.", param_hint="--question")
        arguments = [asked, *arguments]
    elif arguments and arguments[0] == "-":
        raise typer.BadParameter("it is needed when the answer comes from standard input.", param_hint="--question")
    if not arguments:
        raise typer.BadParameter("a question and an answer, or --input, are needed.", param_hint="QUESTION")
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


# Many -----------------------------------------------------------------------------------------------------------------


def _read(source: Path) -> list[dict[str, Any]]:
    """All rows, checked before the first is corrected: a slip in the last line should not cost hours."""
    stdin = str(source) == "-"
    name = "standard input" if stdin else str(source)
    rows = []
    for number, row in parse_jsonl(_read_stdin().split("\n"), name) if stdin else read_jsonl(source):
        for key in ("question", "answer"):
            if not isinstance(row.get(key), str):
                raise ConfigurationError(f"{name}, line {number}: a row needs {key} as text.")
        rows.append(row)
    return rows


def _correct_rows(
    aligner: Aligner,
    rows: list[dict[str, Any]],
    source: Path,
    output: Path | None,
    fields: dict[str, str],
    *,
    as_json: bool,
) -> None:
    """Write each row with its correction's fields, or with its error; exit code 1 if any row failed."""
    counts: Counter[str] = Counter()
    with _writer(output) as write, progress("correcting", len(rows)) as done:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            pairs = [(row["question"], row["answer"]) for row in chunk]
            # With return_exceptions the list holds errors too, which its type does not say.
            results: Sequence[Correction | AlignerError] = aligner.correct_many(pairs, return_exceptions=True, **fields)
            for row, result in zip(chunk, results, strict=True):
                if isinstance(result, Correction):
                    counts[result.outcome] += 1
                    write({**row, **result.to_dict()})
                else:
                    counts["error"] += 1
                    error = {"type": type(result).__name__, "message": str(result), "retryable": result.retryable}
                    write({**row, "error": error})
            done(start + len(chunk))
    if output is not None and as_json:
        echo_json({"rows": len(rows), **counts})
    elif output is not None or counts["error"]:
        parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        note(f"{len(rows)} rows of {source}" + (f": {parts}" if parts else ""))
    if counts["error"]:
        raise typer.Exit(1)


@contextmanager
def _writer(output: Path | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Yield a function that writes one row as a line. A file is called `.part` until it is whole."""
    if output is None:
        yield lambda row: echo_json(row, indent=None)
        return
    part = output.with_name(output.name + ".part")
    with (
        gzip.open(part, "wt", encoding="utf-8") if output.suffix == ".gz" else part.open("w", encoding="utf-8") as lines
    ):
        yield lambda row: lines.write(dump_json(row) + "\n")
    part.replace(output)
