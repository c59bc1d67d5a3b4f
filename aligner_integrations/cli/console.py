"""What the commands write, and that nothing in it controls the terminal.

Text of models and users is data: control characters in it are shown as escapes, and it is never read as rich's markup.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from aligner_integrations.visible import UNSAFE, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from aligner_integrations.correction import Correction, Diff

# In a file or a pipe, long lines are better than cells cut to the 80 columns of a terminal that is not there.
_PIPED_WIDTH = 200

_STYLES = {"equal": "", "delete": "red strike", "insert": "green"}


def dump_json(data: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return JSON that is safe on a terminal, too: its strings mean the same, to the letter."""
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    return UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def echo(text: str) -> None:
    """Write text to standard output: nothing wrapped, nothing coloured."""
    sys.stdout.write(visible(text) + "\n")


def echo_json(data: object, *, indent: int | None = 2) -> None:
    """Write JSON to standard output."""
    # Where the terminal is not UTF-8, a replaced character would break the JSON; an escaped one does not.
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    sys.stdout.write(dump_json(data, indent=indent, ascii_only=encoding != "utf8") + "\n")


def note(text: str) -> None:
    """Write a remark to standard error, so that standard output stays the result alone."""
    sys.stdout.flush()  # in one terminal, the remark should stand after what it is about
    sys.stderr.write(visible(text) + "\n")


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present standard output or error. Give it `Text`, never a string with foreign words in it."""
    from rich.console import Console

    # `!aligner ...` in a notebook writes to a terminal of its kernel's, and what moves there is junk in the notebook.
    moves = False if "JPY_PARENT_PID" in os.environ else None
    return Console(stderr=stderr, force_terminal=moves, highlight=False, markup=False, emoji=False, soft_wrap=True)


def styled(*parts: tuple[str, str]) -> Text:
    """Return (words, style) pairs as a `Text` that is safe on a terminal."""
    from rich.text import Text

    text = Text()
    for words, style in parts:
        text.append(visible(words), style)
    return text


def diff_text(diff: Diff, out: Console) -> Text:
    """Return a diff: what went in red and struck out, what came in green; `[-gone-]{+new+}` where there is no colour."""
    if out.color_system is None or out.no_color:
        return styled((str(diff), ""))
    return styled(*((edit.text, _STYLES[edit.kind]) for edit in diff))


def print_table(lines: Sequence[Sequence[str]], *, numbers: bool = False) -> None:
    """Print a header and lines of cells as a table; with `numbers`, all columns but the first are aligned right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    header, *body = lines
    for position, name in enumerate(header):
        justify: Literal["left", "right"] = "right" if numbers and position else "left"
        table.add_column(styled((name, "")), justify=justify, overflow="fold", no_wrap=position == 0)
    for cells in body:
        table.add_row(*(styled((cell, "")) for cell in cells))
    out = console()
    if not out.is_terminal:
        out.width = _PIPED_WIDTH
    out.print(table, soft_wrap=False)


def print_indented(out: Console, text: str) -> None:
    """Print what belongs to the line above, dim and wrapped to the terminal's width."""
    from rich.padding import Padding

    if not out.is_terminal:
        out.width = _PIPED_WIDTH
    out.print(Padding(styled((text, "dim")), (0, 0, 0, 4)), soft_wrap=False)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if that is a terminal; yields a function that takes how many are done."""
    with progress_bars() as show:
        show(label, 0, total)
        yield lambda done: show(label, done, total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each thing that is done, one after another; yields a function that takes what, how much and of how much.

    What is done at the first call was done before, so that it counts for no rate.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(TextColumn):
        def __init__(self) -> None:
            super().__init__("", markup=False)

        def render(self, task: Task) -> Text:
            return styled((f"{task.speed:,.1f}/s" if task.speed else "", "cyan"))

    err = console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate())
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(visible(label), total=total, completed=done)
            bar.update(tasks[label], completed=done, total=total)

        yield show


def correction_note(correction: Correction) -> str:
    """Return one line that says what happened to an answer."""
    words = "kept letter by letter" if correction.outcome == "kept" else correction.outcome
    found = f", objects to: {', '.join(correction.objections)}" if correction.objections else ""
    return f"{words}{f' ({correction.reason})' if correction.reason else ''}{found}, {correction.seconds:.1f} s"
