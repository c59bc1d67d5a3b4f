"""`aligner score`: how the aligner judges an answer, and where it objects, without correcting it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import console, dump_json, echo, echo_json, note, print_table, progress, styled
from aligner_integrations.cli.correct import pair_of
from aligner_integrations.cli.options import AlignerOptions, JsonOption
from aligner_integrations.errors import AlignerError, ConfigurationError
from aligner_integrations.triples import read_records

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner
    from aligner_integrations.backends.score import Score


@options.takes_options
def score(
    question: Annotated[str | None, typer.Argument(help="What the upstream was asked.", show_default=False)] = None,
    answer: Annotated[
        str | None, typer.Argument(help='What it answered; "-" or nothing: standard input.', show_default=False)
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", "-i", help='A file of rows {"question", "answer"}: JSON Lines, CSV or Parquet.'),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the rows with their scores go, as JSON Lines. Default: standard output."
        ),
    ] = None,
    *,
    which: AlignerOptions,
    as_json: JsonOption = False,
) -> None:
    """Judge an answer, or a file of them, in one forward pass each: would the aligner leave it alone, and where does it object?

    The words it objects to are red. It is kept if its score is at most the threshold: the gate's, or, for an aligner without one, 0.
    """
    if source is not None:
        if question is not None or answer is not None:
            raise typer.BadParameter("it takes the place of QUESTION and ANSWER.", param_hint="--input")
        if output is not None and output.resolve() == source.resolve():
            raise typer.BadParameter("it would overwrite --input.", param_hint="--output")
        rows = _read(source)
        _score_rows(options.make_aligner(which), rows, output)
        return
    if output is not None:
        raise typer.BadParameter("it goes with --input.", param_hint="--output")
    asked, said = pair_of([text for text in (question, answer) if text is not None], None)
    aligner = options.make_aligner(which)
    found = aligner.score(asked, said)
    data = _as_dict(aligner, found)
    if as_json:
        echo_json({**data, "tokens": [_token(one) for one in found.tokens]})
        return
    _show(said, found, data)


def _show(answer: str, found: Score, data: dict[str, Any]) -> None:
    """The answer with what the aligner objects to, and the numbers under it."""
    marked = [(token.start, token.end) for token in found.marked(data["threshold"]) if token.end > token.start]
    out = console()
    if out.color_system is None or out.no_color:
        pieces = _pieces(answer, marked)
        echo("".join(f"[{text}]" if bad else text for text, bad in pieces))
    else:
        out.print(styled(*((text, "bold red" if bad else "") for text, bad in _pieces(answer, marked))))
    lines = [["", ""], ["kept by the gate", "yes" if data["keep"] else "no"]]
    names = {
        "score": "score",
        "threshold": "threshold",
        "max_gap": "largest gap (nats)",
        "mean": "mean log-probability (nats a token)",
        "minimum": "smallest log-probability (nats)",
    }
    lines += [[label, f"{data[name]:.3f}"] for name, label in names.items()]
    print_table(lines, numbers=True)


def _pieces(answer: str, marked: list[tuple[int, int]]) -> list[tuple[str, bool]]:
    """(text, whether it is marked), whole words: a token is often a part of one."""
    bad = [False] * len(answer)
    for start, end in marked:
        while start > 0 and answer[start - 1].isalnum() and answer[start].isalnum():
            start -= 1
        while end < len(answer) and answer[end].isalnum() and answer[end - 1].isalnum():
            end += 1
        bad[start:end] = [not letter.isspace() for letter in answer[start:end]]
    pieces: list[tuple[str, bool]] = []
    for letter, one in zip(answer, bad, strict=True):
        if pieces and pieces[-1][1] == one:
            pieces[-1] = (pieces[-1][0] + letter, one)
        else:
            pieces.append((letter, one))
    return pieces


def _read(source: Path) -> list[dict[str, Any]]:
    """All rows, checked before the first is scored: a slip in the last one should not cost an hour."""
    rows = []
    for place, row in read_records(source):
        for key in ("question", "answer"):
            if not isinstance(row.get(key), str):
                raise ConfigurationError(f"{place}: a row needs {key} as text.")
        rows.append(dict(row))
    return rows


@contextmanager
def _writer(output: Path | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Yield a function that writes one row as a line. A file is called `.part` until it is whole."""
    if output is None:
        yield lambda row: echo_json(row, indent=None)
        return
    part = output.with_name(output.name + ".part")
    with part.open("w", encoding="utf-8") as lines:
        yield lambda row: lines.write(dump_json(row) + "\n")
    part.replace(output)


def _score_rows(aligner: Aligner, rows: list[dict[str, Any]], output: Path | None) -> None:
    failed = 0
    with _writer(output) as write, progress("scoring", len(rows)) as done:
        for number, row in enumerate(rows, 1):
            try:
                write({**row, **_as_dict(aligner, aligner.score(row["question"], row["answer"]))})
            except AlignerError as error:
                failed += 1
                told = {"type": type(error).__name__, "message": str(error), "retryable": error.retryable}
                write({**row, "error": told})
            done(number)
    if output is not None or failed:
        note(f"{len(rows)} rows" + (f", {failed} of them failed" if failed else ""))
    if failed:
        raise typer.Exit(1)


def _as_dict(aligner: Aligner, found: Score) -> dict[str, Any]:
    threshold = aligner.backend.gate if found.gate is not None and aligner.backend.gate is not None else 0.0
    score = found.max_gap if found.gate is None else found.gate
    return {
        "score": score,
        "threshold": threshold,
        "keep": score <= threshold,
        "max_gap": found.max_gap,
        "mean": found.mean,
        "minimum": found.minimum,
        "total": found.total,
    }


def _token(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("text", "start", "end", "logprob", "gap", "mark")}
