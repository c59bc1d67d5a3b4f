"""Q-A-C triples, and reading rows of any kind: JSON Lines, CSV, Parquet, folders of these, and data sets on the Hub.

What lives elsewhere: how triples become tokens and batches (`training/data.py`), what is measured on them (`evaluation/`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.jsonl import read_jsonl

FILE_KINDS = (".jsonl", ".jsonl.gz", ".parquet", ".csv")

_LONGEST_CELL = 2**24  # characters of a CSV file's cell; Python's own limit of 131,072 is less than a long answer


class Triple(NamedTuple):
    """One question, one answer and its correction (Q-A-C). An identity pair repeats the answer as the correction.

    Attributes:
        question: The question.
        answer: The answer.
        correction: The correction.
        end_only: Whether only the correction's end is learnt: it is what an aligner wrote of its own, and should have ended after.
    """

    question: str
    answer: str
    correction: str
    end_only: bool = False


def read_triples(source: str | Path, *, split: str = "train", columns: Mapping[str, str] | None = None) -> list[Triple]:
    """Read triples from JSON Lines (also .gz), CSV, Parquet, a folder of these, or a data set on the Hub.

    Rows are `{"question", "answer", "correction"}`, or preference pairs `{"prompt", "chosen", "rejected"}`, of which
    the rejected answer is the answer and the chosen one its correction (paper, table 3).

    Args:
        source: A path, or a Hub id such as `aligner/aligner-20K`.
        split: Split of a Hub data set.
        columns: Name here -> name in the rows, such as `{"answer": "draft"}`, where they are called otherwise.

    Raises:
        ConfigurationError: There is no such source, or a row has neither form; the message names the row.
        MissingDependencyError: What reads this kind of source is not installed.
    """
    return [_triple(row, place) for place, row in read_records(source, split=split, columns=columns)]


def read_records(
    source: str | Path,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    config: str | None = None,
) -> list[tuple[str, Mapping[str, Any]]]:
    """Read rows of any columns; see `read_triples`.

    Args:
        source: A path, or a Hub id.
        split: Split of a Hub data set.
        columns: Name here -> name in the rows.
        config: Configuration of a Hub data set that has several.

    Returns:
        For each row, the place where it stands, for messages, and its values by column.

    Raises:
        ConfigurationError: There is no such source, it holds no rows, or it is damaged.
        MissingDependencyError: What reads this kind of source is not installed.
    """
    path = Path(source)
    if not path.exists():
        rows = [(f"{source}, row {number}", row) for number, row in enumerate(_hub_rows(str(source), split, config))]
    else:
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.name.endswith(FILE_KINDS))
        if not files:
            raise ConfigurationError(f"{path} holds no {', '.join(FILE_KINDS)} file to read.")
        rows = [found for file in files for found in _file_rows(file)]
    if not rows:
        raise ConfigurationError(f"{source} holds no rows.")
    return [(place, _renamed(row, columns, place)) for place, row in rows] if columns else rows


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str], place: str) -> dict[str, Any]:
    if missing := sorted(name for name in columns.values() if name not in row):
        raise ConfigurationError(f"{place}: it has no column {missing[0]!r}; its columns are {sorted(row)}.")
    return {**row, **{name: row[theirs] for name, theirs in columns.items()}}


def _file_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place for messages, row)."""
    if not file.name.endswith(FILE_KINDS):
        raise ConfigurationError(f"{file} is no {', '.join(FILE_KINDS)} file, so its rows cannot be read.")
    if file.name.endswith(".parquet"):
        yield from _parquet_rows(file)
    elif file.name.endswith(".csv"):
        yield from _csv_rows(file)
    else:
        for number, row in read_jsonl(file):
            yield f"{file}, line {number}", row


def _csv_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise ConfigurationError(
                        f"{file}, line {reader.line_num}: it has not as many cells as the first line, which names the columns."
                    )
                yield f"{file}, line {reader.line_num}", row
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except (OSError, csv.Error) as error:
        raise ConfigurationError(f"{file} cannot be read as CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with require("corpus", "Reading Parquet needs {missing}", "pyarrow.parquet"):
        import pyarrow
        import pyarrow.parquet
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    yield f"{file}, row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(f"{file} cannot be read as Parquet: {error}") from error


def _hub_rows(name: str, split: str, config: str | None) -> Iterable[Mapping[str, Any]]:
    with require("corpus", "Reading a data set from the Hub needs {missing}", "datasets"):
        import datasets
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # its own kinds, and those of the readers below it
        raise ConfigurationError(
            f"{name!r} is neither a file here nor a data set that could be read from the Hub: {error}"
        ) from error
    return rows


def _triple(row: Mapping[str, Any], place: str) -> Triple:
    if {"question", "answer", "correction"} <= row.keys():
        values = [row["question"], row["answer"], row["correction"]]
    elif {"chosen", "rejected"} <= row.keys():
        prompt = row.get("prompt") or row.get("question") or row.get("dialogue")
        values = [_last_text(prompt), _last_text(row["rejected"]), _last_text(row["chosen"])]
    else:
        raise ConfigurationError(
            f"{place}: it has the columns {sorted(row)}; a row needs question, answer and correction, "
            "or prompt, chosen and rejected."
        )
    if not all(isinstance(value, str) for value in values):
        raise ConfigurationError(f"{place}: its question, answer or correction is not text.")
    return Triple(*values)


def _last_text(value: Any) -> Any:
    """Text of a conversational field: the last message's content; anything else as it is."""
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        return value[-1].get("content")
    return value
