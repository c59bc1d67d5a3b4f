"""What a corpus is read from: files, folders and patterns, or a data set on the Hub; and what tells it from another one.

What lives elsewhere: how each format is read (`readers.py`).
"""

from __future__ import annotations

import glob
import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aligner_integrations.corpus.lines import Hashed, lines, opened
from aligner_integrations.corpus.readers import (
    FORMATS,
    format_of,
    header_of,
    records_of,
    require_arrow,
    schema_of,
    table_rows,
)
from aligner_integrations.corpus.records import Record
from aligner_integrations.errors import ConfigurationError, first_line, require

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_ROWS = 1_000


class Placed(NamedTuple):
    """A row and the file it stands in."""

    file: str
    record: Record


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a file from another one, and how large it is.

    Attributes:
        name: Its path.
        size: Its bytes.
        changed: When it was last written, in nanoseconds; with the same one it is not read again to be told.
        sha256: Of its bytes.
        rows: About how many rows it has: its lines, where only reading would tell.
    """

    name: str
    size: int
    changed: int
    sha256: str
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return asdict(self)


class Source(ABC):
    """Rows in an order that never changes.

    Attributes:
        form: Their format.
        header: The names of their columns; None where each row has its own.
    """

    form: str
    header: list[str] | None

    @abstractmethod
    def records(self) -> Iterator[Placed]:
        """Yield the rows.

        Raises:
            ConfigurationError: They cannot be read to the end.
        """

    @abstractmethod
    def identities(self, known: Sequence[Identity], on_bytes: Callable[[int], object]) -> list[Identity]:
        """Return what tells this source from others.

        Args:
            known: What was found before.
            on_bytes: Called with the number of bytes that were read for it.
        """

    @property
    def size(self) -> int:
        """Bytes that are read to tell it from others."""
        return 0

    @property
    def schema(self) -> Any:
        """The Arrow schema of the rows; None where there is none."""
        return None

    def __str__(self) -> str:
        """What messages call it."""
        return "the input"


def find_source(names: Sequence[str], *, split: str = "train") -> Source:
    """Return what a corpus is read from.

    Args:
        names: Files, folders and patterns such as `data/*.jsonl.gz`; or the name of a data set on the Hub alone.
        split: Of a data set on the Hub.

    Raises:
        ConfigurationError: There is no such thing, or the files do not fit together.
        MissingDependencyError: What reads it is not installed.
    """
    if "-" in names:
        raise ConfigurationError(
            "A corpus is read from files, so that a run which was killed can go on; standard input cannot be read twice."
        )
    if (
        len(names) == 1
        and not Path(names[0]).exists()
        and format_of(names[0]) is None
        and _HUB_NAME.fullmatch(names[0])
    ):
        return HubSource(names[0], split)
    return FileSource([path for name in names for path in _files(name)])


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.is_file() and format_of(file.name)]
    elif path.exists():
        found = [path]
    else:
        found = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]  # noqa: PTH207 - absolute patterns, too
    if not found:
        raise ConfigurationError(f"{name}: there is no such file, and no file of a format that can be read in it.")
    return sorted(found)


class FileSource(Source):
    """The rows of files, one file after another.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise ConfigurationError(f"{twice[0]} is named twice, and each row is to be corrected once.")
        forms = {path: format_of(path.name) for path in paths}
        for path, form in forms.items():
            if form is None:
                raise ConfigurationError(
                    f"{path}: its format is told by its name, which ends in {', '.join(FORMATS)}; all but Parquet may be "
                    "compressed (.gz, .zst)."
                )
        if len(set(forms.values())) > 1:
            raise ConfigurationError(f"{paths[0]} and others are of different formats; correct one format at a time.")
        self.paths = list(paths)
        self.form = str(forms[paths[0]])
        self.header = header_of(paths[0], self.form)
        for path in paths[1:]:
            if self.header is not None and header_of(path, self.form) != self.header:
                raise ConfigurationError(f"{path} has other columns than {paths[0]}; correct them one at a time.")
            if self.form == "parquet" and not schema_of(path).equals(self.schema):
                raise ConfigurationError(f"The columns of {path} are of other kinds than those of {paths[0]}.")

    def records(self) -> Iterator[Placed]:
        """Yield the rows of all files."""
        for path in self.paths:
            for record in records_of(path, self.form):
                yield Placed(str(path), record)

    def identities(self, known: Sequence[Identity], on_bytes: Callable[[int], object]) -> list[Identity]:
        """Digest the files, but for those that nobody has written to since."""
        before = {(one.name, one.size, one.changed): one for one in known}
        found = []
        for path in self.paths:
            stat = path.stat()
            same = before.get((str(path), stat.st_size, stat.st_mtime_ns))
            if same is None:
                sha256, rows = self._digest(path, on_bytes)
                same = Identity(str(path), stat.st_size, stat.st_mtime_ns, sha256, rows)
            else:
                on_bytes(stat.st_size)
            found.append(same)
        return found

    def _digest(self, path: Path, on_bytes: Callable[[int], object]) -> tuple[str, int]:
        with path.open("rb") as file:
            hashed = Hashed(file, on_bytes)
            if self.form == "parquet":
                return hashed.hexdigest(), int(require_arrow().parquet.read_metadata(path).num_rows)
            with opened(path, io.BufferedReader(hashed, 2**20)) as stream:
                rows = sum(1 for _ in lines(stream))
            return hashed.hexdigest(), rows - (self.header is not None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def schema(self) -> Any:
        """The Arrow schema of Parquet files."""
        return schema_of(self.paths[0]) if self.form == "parquet" else None

    def __str__(self) -> str:
        """Name the files."""
        return str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"


class HubSource(Source):
    """A data set on the Hub, which is fetched as a whole first.

    Args:
        name: Its name there.
        split: Which part of it.
    """

    form = "hub"

    def __init__(self, name: str, split: str) -> None:
        with require("corpus", "Reading a data set from the Hub needs {missing}", "datasets"):
            import datasets
        self.name, self.split = name, split
        try:
            self._rows = datasets.load_dataset(name, split=split)
        except Exception as error:  # its own kinds, and those of the readers below it
            raise ConfigurationError(
                f"{name!r} is neither a file here nor a data set that could be read from the Hub: {first_line(error)}"
            ) from error
        self.header = list(self._rows.column_names)

    def records(self) -> Iterator[Placed]:
        """Yield its rows."""
        before = 0
        for table in self._rows.with_format("arrow").iter(_HUB_ROWS):
            for record in table_rows(table, before):
                yield Placed(self.name, record)
            before += table.num_rows

    def identities(self, known: Sequence[Identity], on_bytes: Callable[[int], object]) -> list[Identity]:
        """Take what the library tells data sets apart by."""
        number = hashlib.sha256(f"{self.split} {self._rows._fingerprint}".encode()).hexdigest()
        return [Identity(self.name, int(self._rows.dataset_size or 0), 0, number, len(self._rows))]

    @property
    def schema(self) -> Any:
        """The Arrow schema of its rows."""
        return self._rows.features.arrow_schema

    def __str__(self) -> str:
        """Name it."""
        return self.name
