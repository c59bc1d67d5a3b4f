"""Which kind of place a path names, for records: a file, a folder, a database."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording.records import DATABASES, IN_FOLDER, Record


class Place(Protocol):
    """Where records are put."""

    def write(self, records: list[Record]) -> None:
        """Put records there, behind what is there."""

    def sync(self) -> None:
        """Return when they are on the disk."""


def place_of(path: str | Path, *, max_bytes: int, daily: bool) -> Place:
    """Open the kind of place that a path names."""
    from aligner_integrations.recording.database import Database
    from aligner_integrations.recording.lines import LinesFile

    given, path = str(path), Path(path)
    if not given.strip():
        raise ConfigurationError("record is an empty name; give a file, a database or a folder.")
    if path.suffix in DATABASES:
        if daily:
            raise ConfigurationError(f"{path} is a database, which stays one file; daily is for files and folders.")
        return Database(path)
    if path.is_dir() or not path.suffix or given.endswith("/"):
        return LinesFile(path / IN_FOLDER, max_bytes=max_bytes, daily=daily)
    if path.suffix == ".jsonl":
        return LinesFile(path, max_bytes=max_bytes, daily=daily)
    raise ConfigurationError(
        f"{path} cannot be recorded to: records go into a .jsonl file, a database ({', '.join(DATABASES)}) or a folder."
    )
