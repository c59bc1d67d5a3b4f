"""Records as rows of an SQLite database, for any number of processes.

Each batch is a transaction on a connection of its own: nothing is open while a process forks.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.forking import Lock
from aligner_integrations.own_database import claim, keep_private
from aligner_integrations.recording.records import Record

_APPLICATION = 0x416C6E52  # "AlnR": marks the file as ours
_BUSY = 30.0  # seconds to wait for another process that writes
_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    id TEXT PRIMARY KEY, time REAL NOT NULL, outcome TEXT NOT NULL, request TEXT, trace TEXT, aligner TEXT, data TEXT NOT NULL
)
"""
_turn = Lock(forks_wait=True)
"""A child would inherit what SQLite thinks of a transaction that is under way, whichever the file."""


class Database:
    """A database of records.

    Args:
        path: The file.

    Raises:
        ConfigurationError: It cannot be written to, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            keep_private(path)
            with _turn, contextlib.closing(self._connect()) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    claim(connection, _APPLICATION)
                    connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            what = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"{path} cannot be recorded to: {what}. Name a file that can be written, or a new one."
            ) from error

    def write(self, records: Sequence[Record]) -> None:
        """Append records: all of them, or none.

        Raises:
            OSError: The disk or the database refuses.
        """
        rows = [(r.id, r.time, r.correction.outcome, r.request, r.trace, r.aligner, r.to_json()) for r in records]
        try:
            with _turn, contextlib.closing(self._connect()) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise OSError(0, f"SQLite: {error}") from error

    def sync(self) -> None:
        """Each transaction has reached the disk when it ends."""

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection
