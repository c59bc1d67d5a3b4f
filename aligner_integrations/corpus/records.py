"""What one row of a corpus is: where it stands, its values, and how it looks with the new columns.

A row that cannot be used costs itself: it raises `BadRowError`, whose words go to the dead letters. No text of the row is in them.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aligner_integrations.corpus.lines import LONGEST_LINE
from aligner_integrations.errors import ConfigurationError

LONGEST_TEXT = 1_000_000
"""Characters of a question or an answer; more than any aligner's window takes, and it would hold up its neighbours."""


class BadRowError(Exception):
    """This row cannot be used; the message is a sentence for the dead letters."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How columns are called.

    Attributes:
        question: The one with the questions.
        answer: The one with the answers.
        prefix: What stands before the names of the new columns.
    """

    question: str = "question"
    answer: str = "answer"
    prefix: str = ""

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ConfigurationError: Question and answer are one column, or a new one would replace it.
        """
        if self.question == self.answer:
            raise ConfigurationError(f"Question and answer are both the column {self.answer!r}; name two.")
        if {self.question, self.answer} & set(self.new):
            raise ConfigurationError(
                f"The columns {self.question!r} and {self.answer!r} would be replaced by one of {', '.join(self.new)}. Give the "
                "new ones a prefix."
            )

    @property
    def new(self) -> list[str]:
        """The names of the new columns, in their order."""
        return [self.prefix + name for name in ("correction", "outcome", "reason", "score", "changed_share", "model")]

    def check(self, there: Sequence[str], where: str) -> None:
        """Look whether a table has what is needed, and nothing that would be replaced.

        Raises:
            ConfigurationError: It has not.
        """
        for name in (self.question, self.answer):
            if name not in there:
                raise ConfigurationError(
                    f"{where} has no column {name!r}; it has {', '.join(there) or 'none'}. Say which hold question and answer: "
                    "--question-column and --answer-column, in Python columns=Columns(question=..., answer=...)."
                )
        if twice := [name for name in self.new if name in there]:
            raise ConfigurationError(
                f"{where} already has a column {twice[0]!r}. Give the new ones a prefix (--prefix)."
            )


class Record(ABC):
    """One row as it stands in its file, which nobody has looked into yet.

    Attributes:
        number: Its line, or its row in a table, from 1.
        size: About how many bytes it takes.
    """

    __slots__ = ("number", "size")
    number: int
    size: int

    @abstractmethod
    def values(self) -> Mapping[str, Any]:
        """Return its columns.

        Raises:
            BadRowError: It has none that can be read.
        """

    def with_new(self, values: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """Return it as a line of JSON with the new columns."""
        return dump({**values, **new})

    def pair(self, columns: Columns) -> tuple[str, str, Mapping[str, Any]]:
        """Return question, answer and all values.

        Raises:
            BadRowError: It has no question or answer that can be corrected.
        """
        values = self.values()
        texts = []
        for what, name in (("question", columns.question), ("answer", columns.answer)):
            if name not in values:
                raise BadRowError(f"It has no column {name!r}, where the {what} should be.")
            text = values[name]
            if text is None:
                raise BadRowError(f"Its {name} is empty (null).")
            if not isinstance(text, str):
                raise BadRowError(f"Its {name} is no text but {type(text).__name__}.")
            if len(text) > LONGEST_TEXT:
                raise BadRowError(f"Its {name} has {len(text):,} characters; at most {LONGEST_TEXT:,} are corrected.")
            texts.append(text)
        if twice := [name for name in columns.new if name in values]:
            raise BadRowError(f"It already has a column {twice[0]!r}; give the new ones a prefix.")
        return texts[0], texts[1], values


class JsonLine(Record):
    """A line of JSON Lines; None: one that is too long."""

    __slots__ = ("_line",)

    def __init__(self, number: int, line: bytes | None) -> None:
        self.number, self.size, self._line = number, len(line or b""), line

    def values(self) -> Mapping[str, Any]:
        """Parse the line."""
        text = _decoded(self._line)
        try:
            data = json.loads(text.rstrip())
        except (ValueError, RecursionError) as error:
            where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise BadRowError(f"It is not JSON{where}.") from error
        if not isinstance(data, dict):
            raise BadRowError(f"It is no object but {type(data).__name__}.")
        return data

    def with_new(self, values: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """Return the line as it stands, to the letter, with the new columns at its end."""
        return f"{_decoded(self._line).rstrip()[:-1].rstrip()}, {dump(new)[1:]}"


class CsvRecord(Record):
    """A record of a CSV file, or what is wrong with it."""

    __slots__ = ("_cells", "_header")

    def __init__(self, number: int, size: int, header: Sequence[str], cells: Sequence[str] | str) -> None:
        self.number, self.size, self._header, self._cells = number, size, header, cells

    def values(self) -> Mapping[str, Any]:
        """Put the header's names to the cells."""
        if isinstance(self._cells, str):
            raise BadRowError(self._cells)
        if len(self._cells) != len(self._header):
            raise BadRowError(f"It has {len(self._cells)} cells where the header has {len(self._header)}.")
        for cell in self._cells:
            try:
                cell.encode()
            except UnicodeEncodeError as error:
                raise BadRowError("It is not UTF-8.") from error
        return dict(zip(self._header, self._cells, strict=True))


class TableRow(Record):
    """A row of an Arrow table.

    Attributes:
        table: The table, a piece of the whole.
        index: The row in it.
    """

    __slots__ = ("index", "table")

    def __init__(self, number: int, table: Any, index: int, size: int) -> None:
        self.number, self.table, self.index, self.size = number, table, index, size

    def values(self) -> Mapping[str, Any]:
        """Read the row out of the table."""
        try:
            return {name: self.table.column(name)[self.index].as_py() for name in self.table.column_names}
        except (
            ValueError,
            OverflowError,
        ) as error:  # bytes that are no UTF-8 in a column of texts; a date beyond Python's
            raise BadRowError(f"It holds a value that cannot be read ({type(error).__name__}).") from error


def dump(data: object) -> str:
    """Return one line of JSON; what JSON has no word for is told by its text."""
    text = json.dumps(data, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which only an escape can say
        return json.dumps(data, default=str)
    return text


def csv_line(cells: Sequence[Any], delimiter: str) -> str:
    """Return one record of a CSV file."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _decoded(line: bytes | None) -> str:
    if line is None:
        raise BadRowError(f"It has more than {LONGEST_LINE:,} bytes.")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(f"It is not UTF-8: {error.reason} at byte {error.start}.") from error
