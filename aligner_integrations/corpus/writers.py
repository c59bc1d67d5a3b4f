"""How corrected rows become bytes: those of a shard, and those of the whole output, which are the shards one after another.

The same rows give the same bytes, whenever and wherever they are written.
"""

from __future__ import annotations

import gzip
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aligner_integrations.corpus.lines import compression_of
from aligner_integrations.corpus.readers import DELIMITERS, format_of, require_arrow
from aligner_integrations.corpus.records import Columns, Record, TableRow, csv_line, dump
from aligner_integrations.corpus.source import Source
from aligner_integrations.errors import ConfigurationError, require

_ROWS_A_GROUP = 50_000
"""Rows of a row group of Parquet: one a shard would make a footer of many megabytes."""


class Corrected(NamedTuple):
    """A row with its new columns."""

    record: Record
    values: Mapping[str, Any]
    new: Mapping[str, Any]


class Writer(ABC):
    """Makes bytes of rows in one format."""

    @abstractmethod
    def shard(self, rows: Sequence[Corrected]) -> bytes:
        """Return the rows of a shard."""

    @abstractmethod
    def whole(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the output, piece by piece."""


def writer_for(name: str, source: Source, columns: Columns) -> Writer:
    """Return what writes an output.

    Args:
        name: The output's name, which tells its format.
        source: Where the rows come from.
        columns: How the new columns are called.

    Raises:
        ConfigurationError: These rows cannot be written in that format.
        MissingDependencyError: What it needs is not installed.
    """
    form, header = format_of(name), source.header
    if form is None:
        raise ConfigurationError(
            f"{name}: the format of the output is told by its name, which ends in .jsonl, .csv, .tsv or .parquet; all but Parquet "
            "may be compressed (.gz, .zst)."
        )
    if form == "jsonl":
        return JsonWriter(compression_of(name))
    if form == "parquet":
        if source.schema is None:
            raise ConfigurationError(
                f"{name}: only rows that come with types can become Parquet. Write .jsonl instead."
            )
        return ParquetWriter(source.schema, columns)
    if header is None:
        raise ConfigurationError(f"{name}: rows of JSON Lines have each their own columns. Write .jsonl instead.")
    return CsvWriter([*header, *columns.new], DELIMITERS[form], compression_of(name))


class JsonWriter(Writer):
    """JSON Lines; a row that was a line of JSON stays that line to the letter, with the new columns at its end.

    Args:
        compression: ".gz", ".zst" or "".
    """

    def __init__(self, compression: str) -> None:
        self._compression = compression

    def shard(self, rows: Sequence[Corrected]) -> bytes:
        """Return the lines."""
        text = "".join(row.record.with_new(row.values, row.new) + "\n" for row in rows)
        return _compressed(text.encode("utf-8", "backslashreplace"), self._compression)

    def whole(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the shards: compressed pieces one after another are a compressed whole."""
        yield from shards


class CsvWriter(Writer):
    """CSV with a header; what is no text is told as JSON.

    Args:
        header: The names of all columns.
        delimiter: What stands between cells.
        compression: ".gz", ".zst" or "".
    """

    def __init__(self, header: Sequence[str], delimiter: str, compression: str) -> None:
        self._header, self._delimiter, self._compression = header, delimiter, compression

    def shard(self, rows: Sequence[Corrected]) -> bytes:
        """Return the records, without the header."""
        lines = [[_cell({**row.values, **row.new}[name]) for name in self._header] for row in rows]
        return self._encoded("".join(csv_line(line, self._delimiter) for line in lines))

    def whole(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the header, then the shards."""
        yield self._encoded(csv_line(self._header, self._delimiter))
        yield from shards

    def _encoded(self, text: str) -> bytes:
        return _compressed(text.encode("utf-8", "backslashreplace"), self._compression)


class ParquetWriter(Writer):
    """Parquet; the columns that were there keep their kinds and their metadata.

    Args:
        schema: The Arrow schema of the rows.
        columns: How the new columns are called.
    """

    def __init__(self, schema: Any, columns: Columns) -> None:
        self._arrow = require_arrow()
        text, number = self._arrow.string(), self._arrow.float64()
        kinds = [text, text, text, number, number, text]
        self._old, self._new = schema, list(zip(columns.new, kinds, strict=True))
        self._schema = schema
        for name, kind in self._new:
            self._schema = self._schema.append(self._arrow.field(name, kind))

    def shard(self, rows: Sequence[Corrected]) -> bytes:
        """Return a Parquet file of these rows."""
        table = self._old.empty_table()
        if rows:
            table = self._arrow.concat_tables(_pieces([row.record for row in rows])).cast(self._old)
        for name, kind in self._new:
            values = self._arrow.array([row.new[name] for row in rows], kind)
            table = table.append_column(self._arrow.field(name, kind), values)
        return self._bytes(lambda writer: writer.write_table(table))

    def whole(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        """Yield one file of all rows."""
        sink = _Drain()
        with self._arrow.parquet.ParquetWriter(sink, self._schema) as writer:
            waiting: list[Any] = []
            for data in shards:
                waiting.append(self._arrow.parquet.read_table(io.BytesIO(data), schema=self._schema))
                if sum(table.num_rows for table in waiting) >= _ROWS_A_GROUP:
                    writer.write_table(self._arrow.concat_tables(waiting), row_group_size=2 * _ROWS_A_GROUP)
                    waiting.clear()
                    yield sink.taken()
            if waiting:
                writer.write_table(self._arrow.concat_tables(waiting), row_group_size=2 * _ROWS_A_GROUP)
        yield sink.taken()

    def _bytes(self, write: Any) -> bytes:
        sink = _Drain()
        with self._arrow.parquet.ParquetWriter(sink, self._schema) as writer:
            write(writer)
        return sink.taken()


class _Drain(io.RawIOBase):
    """Holds what was written until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        """What was written stays to be taken."""

    def taken(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def _pieces(records: Sequence[Record]) -> Iterator[Any]:
    """Yield the rows of tables, those that stand in one table together."""
    table, indices = None, []
    for record in records:
        if not isinstance(record, TableRow):
            raise TypeError("Only rows of tables become Parquet.")
        if table is not None and record.table is not table:
            yield table.take(indices)
            indices = []
        table = record.table
        indices.append(record.index)
    if table is not None:
        yield table.take(indices)


def _cell(value: Any) -> Any:
    return dump(value) if isinstance(value, dict | list | bool) else value


def _compressed(data: bytes, how: str) -> bytes:
    if how == ".gz":
        return gzip.compress(data, mtime=0)
    if how == ".zst":
        with require("corpus", "Writing files that end in .zst needs {missing}", "pyarrow"):
            import pyarrow
        return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))
    return data
