"""`aligner preferences`: recorded corrections as data to train on, in a folder or on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aligner_integrations.cli.console import echo, echo_json, note, print_table
from aligner_integrations.cli.options import JsonOption
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.training.preferences.filters import Filters
from aligner_integrations.training.preferences.formats import FORMATS

if TYPE_CHECKING:
    from aligner_integrations.recording.records import Record

_DEFAULTS = Filters()


def preferences(
    source: Annotated[
        list[Path], typer.Argument(help="What was recorded to: .jsonl files, folders, SQLite; OUT comes last.")
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"Which data sets: {', '.join(FORMATS)}. Default: all of them.", metavar="NAME"),
    ] = None,
    conversational: Annotated[
        bool, typer.Option("--conversational", help="Texts as messages instead of strings.")
    ] = False,
    kept: Annotated[
        bool, typer.Option(help="Take answers that were left alone as good examples (never as preference pairs).")
    ] = _DEFAULTS.kept,
    declined: Annotated[
        bool, typer.Option(help="Take corrections that decline to answer what the upstream had answered.")
    ] = _DEFAULTS.declined,
    max_characters: Annotated[
        int, typer.Option(help="Longest question, answer and correction together.", metavar="N")
    ] = _DEFAULTS.max_characters,
    resemblance: Annotated[
        float,
        typer.Option(
            help="From which share of common runs of words on two are near duplicates; 1: to the letter only."
        ),
    ] = _DEFAULTS.resemblance,
    veto: Annotated[
        list[Path] | None,
        typer.Option(
            help='Ids of records that a person or a judge refuses: one a line, or rows with an "id".', metavar="FILE"
        ),
    ] = None,
    aligner: Annotated[
        str | None, typer.Option(help="Only of an aligner: its model, or the beginning of its fingerprint.")
    ] = None,
    test_share: Annotated[
        float, typer.Option(help="Share of the questions that is held back, in a split of its own.")
    ] = 0.0,
    push: Annotated[
        str | None, typer.Option(help="Also put the folder on the Hub, as a data set.", metavar="OWNER/NAME")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to read.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make preference data of recorded corrections: aligner preferences RECORDS... OUT.

    OUT is a new folder that TRL's trainers and `datasets` read, with statistics and a data card.
    """
    from aligner_integrations.recording.records import read_records
    from aligner_integrations.training.preferences.export import export

    if len(source) < 2:
        raise typer.BadParameter("name the records, and then the folder to make of them.", param_hint="OUT")
    if public and push is None:
        raise typer.BadParameter("it goes with --push.", param_hint="--public")
    *sources, output = source
    if push is not None:
        from aligner_integrations.hub import create_repository, push_folder

        create_repository(push, kind="dataset", public=public)  # what it would refuse, it refuses before any work
    damaged: list[str] = []
    found: Iterator[Record] = chain.from_iterable(read_records(one, on_damaged=damaged.append) for one in sources)
    if aligner is not None:
        found = (r for r in found if r.model == aligner or (r.aligner or "").startswith(aligner))
    filters = Filters(
        kept=kept,
        declined=declined,
        max_characters=max_characters,
        resemblance=resemblance,
        veto=frozenset(chain.from_iterable(map(_ids, veto or ()))),
    )
    done = export(
        found,
        output,
        filters=filters,
        formats=kind or FORMATS,
        conversational=conversational,
        test_share=test_share,
        damaged=damaged,
    )
    url = None
    if push is not None:
        url = push_folder(output, push, kind="dataset", public=public)
    if as_json:
        echo_json({"output": str(output), "url": url, **done.to_dict()})
        return
    splits = sorted({split for one in done.rows.values() for split in one}, reverse=True)
    rows = [[kind, *(f"{one.get(split, 0):,}" for split in splits)] for kind, one in done.rows.items()]
    print_table([["data set", *splits], *rows], numbers=True)
    if done.left_out:
        print_table([["left out", "records"], *([why, f"{n:,}"] for why, n in done.left_out.items())], numbers=True)
    if damaged:
        note(f"{len(damaged)} lines are no records and were passed over; the first: {damaged[0]}.")
    first = next(iter(done.rows))
    echo(f"Use it: load_dataset({str(output if url is None else push)!r}, {first!r})")


def _ids(path: Path) -> Iterator[str]:
    """The ids in a file of vetoes: plain, or as rows."""
    if ".jsonl" in path.suffixes:
        for number, row in read_jsonl(path):
            if not isinstance(row.get("id"), str):
                raise ConfigurationError(f"{path}, line {number}: a veto is a row with the id of a record.")
            if row.get("veto", True):
                yield row["id"]
    else:
        yield from path.read_text(encoding="utf-8").split()
