"""The rows of one file, format by format; a row that is damaged is a row that says so, and those behind it are read on.

What lives elsewhere: which files there are (`source.py`), how bytes become lines (`lines.py`), and what a row is (`records.py`).
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligner_integrations.corpus.lines import LONGEST_LINE, compression_of, lines, opened
from aligner_integrations.corpus.records import CsvRecord, JsonLine, Record, TableRow
from aligner_integrations.errors import ConfigurationError, require

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
"""Format by the ending of a file's name, without that of its compression."""

DELIMITERS = {"csv": ",", "tsv": "\t"}

_LONGEST_RECORD = 2 * LONGEST_LINE  # bytes of one CSV record with all its lines; beyond that a quote was never closed
_LINE_BYTES = 64  # what a line takes beside its text
_TABLE_ROWS = 1_024


def format_of(name: str) -> str | None:
    """Return the format that a file's name speaks of; None if it is none of `FORMATS`."""
    found = FORMATS.get(Path(name.removesuffix(compression_of(name))).suffix.lower())
    return None if found == "parquet" and compression_of(name) else found


def require_arrow() -> Any:
    """Return pyarrow with its reader of Parquet.

    Raises:
        MissingDependencyError: It is not installed.
    """
    with require("corpus", "Parquet needs {missing}", "pyarrow.parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def records_of(path: Path, form: str) -> Iterator[Record]:
    """Yield the rows of a file, in order.

    Args:
        path: The file.
        form: Its format.

    Raises:
        ConfigurationError: It cannot be read, or not to its end.
    """
    if form == "jsonl":
        return _json_lines(path)
    if form == "parquet":
        return _parquet(path)
    return _csv(path, DELIMITERS[form])


def header_of(path: Path, form: str) -> list[str] | None:
    """Return the names of a file's columns; None where each row has its own.

    Raises:
        ConfigurationError: It cannot be read, or two columns have one name.
    """
    if form == "jsonl":
        return None
    names = list(schema_of(path).names) if form == "parquet" else _csv_header(path, DELIMITERS[form])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"{path} has two columns called {twice!r}.")
    return names


# JSON Lines -----------------------------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Iterator[Record]:
    with opened(path) as stream:
        for number, line in lines(stream):
            if line is None or not line.isspace():
                yield JsonLine(number, line)


# CSV ------------------------------------------------------------------------------------------------------------------


class _NeverClosedError(Exception):
    """A record goes on over more lines than any does."""


class _Physical:
    """The lines of a CSV file for `csv.reader`, some of which may be given back."""

    def __init__(self, source: Iterator[tuple[int, bytes | None]]) -> None:
        self._source = source
        self._again: deque[tuple[int, str, int]] = deque()
        self.taken: list[tuple[int, str, int]] = []
        self.size = 0

    def __iter__(self) -> _Physical:
        return self

    def __next__(self) -> str:
        if self.size > _LONGEST_RECORD:
            raise _NeverClosedError
        if self._again:
            line = self._again.popleft()
        else:
            number, data = next(self._source)
            # Bytes that are no UTF-8 pass as half characters, so that it is their record that is refused.
            text = "\0" if data is None else data.decode("utf-8", "surrogateescape")
            line = (number, text, len(data or b""))
        self.taken.append(line)
        self.size += line[2] + _LINE_BYTES
        return line[1]

    def begin_record(self) -> None:
        self.taken.clear()
        self.size = 0

    def give_back_all_but_one(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _csv(path: Path, delimiter: str) -> Iterator[Record]:
    with opened(path) as stream:
        physical = _Physical(lines(stream))
        reader = csv.reader(physical, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            physical.begin_record()
            problem = ""
            cells: list[str] = []
            limit = csv.field_size_limit(_LONGEST_RECORD)  # the module's, for all who use it
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (_NeverClosedError, csv.Error):
                # What a quote has swallowed is read again: only the line with the quote is lost.
                physical.give_back_all_but_one()
                problem = "It is not CSV: a quote is never closed, or stands within a cell."
            finally:
                csv.field_size_limit(limit)
            number, size = physical.taken[0][0], sum(part[2] for part in physical.taken)
            if physical.taken[0][1] == "\0":
                problem = f"It has more than {LONGEST_LINE:,} bytes."
            if header is None:
                header = cells
            elif cells or problem:  # an empty line is no record
                yield CsvRecord(number, size, header, problem or cells)


def _csv_header(path: Path, delimiter: str) -> list[str]:
    with opened(path) as stream:
        try:
            header = next(csv.reader(_Physical(lines(stream)), delimiter=delimiter, strict=True), [])
            "".join(header).encode()
        except (_NeverClosedError, csv.Error, UnicodeEncodeError) as error:
            raise ConfigurationError(f"The first line of {path} is no header of a CSV file in UTF-8.") from error
    return header


# Parquet and data sets --------------------------------------------------------------------------------------------------


def schema_of(path: Path) -> Any:
    """Return the Arrow schema of a Parquet file.

    Raises:
        ConfigurationError: It cannot be read.
    """
    pyarrow = require_arrow()
    try:
        return pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as Parquet: {error}") from error


def _parquet(path: Path) -> Iterator[Record]:
    pyarrow = require_arrow()
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_TABLE_ROWS):
                yield from table_rows(pyarrow.Table.from_batches([batch]), number)
                number += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as Parquet beyond row {number}: {error}") from error


def table_rows(table: Any, before: int) -> Iterator[Record]:
    """Yield the rows of an Arrow table, of which so many come before."""
    size = table.nbytes // max(1, table.num_rows)
    for index in range(table.num_rows):
        yield TableRow(before + index + 1, table, index, size)
