"""What a record is, and reading them back: a file with those it was rotated into, a folder of such, or SQLite.

What lives elsewhere: writing them (`recorder.py`, `lines.py`, `database.py`).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.visible import is_encodable

DATABASES = (".db", ".sqlite", ".sqlite3")
IN_FOLDER = "corrections.jsonl"
"""The file that is written to in a folder of records."""

_LONGEST_LINE = 64 * 2**20
_MOMENT = r"\d{8}T\d{12}Z"
_OWN = {"id", "time", "aligner", "model", "request", "trace"}


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded correction.

    Attributes:
        id: Its name; no other record has it.
        time: When the correction was made, in seconds since 1970.
        correction: The correction, as far as redaction left it.
        aligner: Fingerprint of the aligner, with its options.
        model: Name of its weights, if they have one.
        request: The run or request that it belongs to; see `for_request`.
        trace: The OpenTelemetry trace in which it was made.
    """

    id: str
    time: float
    correction: Correction
    aligner: str | None = None
    model: str | None = None
    request: str | None = None
    trace: str | None = None

    @property
    def when(self) -> datetime:
        """When the correction was made, in UTC."""
        return datetime.fromtimestamp(self.time, UTC)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        own = {
            "id": self.id,
            "time": self.when.isoformat(timespec="microseconds"),
            "aligner": self.aligner,
            "model": self.model,
            "request": self.request,
            "trace": self.trace,
        }
        return {**own, **self.correction.to_dict()}

    def to_json(self) -> str:
        """Return its line in a file, without the line's end."""
        data = self.to_dict()
        text = json.dumps(data, ensure_ascii=False)
        # A failed correction may hold what is no text (lone surrogates); JSON can say it in ASCII.
        return text if text.isascii() or is_encodable(text) else json.dumps(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: A field is missing or of the wrong kind.
        """
        try:
            own: dict[str, Any] = {name: data.get(name) for name in _OWN}
            when = datetime.fromisoformat(own.pop("time")).timestamp()
            if not isinstance(own["id"], str) or not all(v is None or isinstance(v, str) for v in own.values()):
                raise ConfigurationError("This is not a record: id, aligner, model, request and trace must be strings.")
            correction = Correction.from_dict({name: value for name, value in data.items() if name not in _OWN})
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"This is not a record: {error}") from error
        return cls(time=when, correction=correction, **own)


def read_records(
    path: str | Path, *, on_damaged: Callable[[str], None] | None = None, follow: bool = True
) -> Iterator[Record]:
    """Yield all records, the oldest file first; it may be written to meanwhile.

    Args:
        path: What `Aligner(record=...)` was given: a file (with those that it was rotated into), a folder, or SQLite.
        on_damaged: Told the place of what is no record, such as a line cut by a full disk. None: that is an error.
        follow: Also read the files that it was rotated into.

    Raises:
        ConfigurationError: There is no such place, it cannot be read, or something in it is no record.
    """
    path = Path(path)

    def damaged(place: str, why: object) -> None:
        if on_damaged is None:
            raise ConfigurationError(f"{place}: {why}")
        on_damaged(place)

    if not path.exists():
        raise ConfigurationError(f"There are no records at {path}. Aligner(record={str(path)!r}) would make some.")
    if path.suffix in DATABASES:
        found = _database_rows(path)
    elif path.is_dir():
        files = sorted({_active(file) for file in path.iterdir() if ".jsonl" in file.suffixes})
        if not files:
            raise ConfigurationError(f"{path} holds no .jsonl file with records.")
        found = (row for file in files for row in _rows(file, follow=True))
    else:
        found = _rows(path, follow=follow)
    for place, line in found:
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise ConfigurationError(f"a record is an object, this is {type(data).__name__}.")
            record = Record.from_dict(data)
        except (ValueError, RecursionError) as error:
            damaged(place, error)
        else:
            yield record


def rotated(path: Path) -> list[Path]:
    """The files that this one was rotated into, the oldest first; they may have been compressed since."""
    name = re.compile(rf"{re.escape(path.stem)}\.{_MOMENT}{re.escape(path.suffix)}(\.gz)?")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))


def _active(file: Path) -> Path:
    """The file that is written to, of one that may have been rotated."""
    return file.with_name(re.sub(rf"\.{_MOMENT}(\.jsonl)(\.gz)?$", r"\1", file.name))


def _rows(path: Path, *, follow: bool) -> Iterator[tuple[str, bytes]]:
    """Yield (place, line). What is opened first is not read a second time under the name it is rotated to meanwhile."""
    try:
        with path.open("rb") if path.exists() and path.suffix != ".gz" else open(os.devnull, "rb") as active:  # noqa: PTH123
            opened = os.fstat(active.fileno())
            for file in rotated(path) if follow else ():
                if (found := file.stat()).st_ino != opened.st_ino or found.st_dev != opened.st_dev:
                    yield from _lines(file)
            if path.suffix == ".gz":
                yield from _lines(path)
            else:
                yield from _numbered(path, active)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".gz":
        try:
            with gzip.open(path, "rb") as file:
                yield from _numbered(path, file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigurationError(f"{path} is not a whole gzip file: {error}") from error
    else:
        with path.open("rb") as file:
            yield from _numbered(path, file)


def _numbered(path: Path, file: Any) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if not line.endswith(b"\n") and not _is_whole(line):
            continue  # still being written, or left by a process that was killed; whoever writes next takes it away
        if line.strip():
            yield f"{path}, line {number}", line


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _database_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            for number, data in connection.execute("SELECT rowid, data FROM records ORDER BY rowid"):
                yield f"{path}, row {number}", str(data).encode("utf-8", "surrogatepass")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} cannot be read as a database of records: {error}.") from error
