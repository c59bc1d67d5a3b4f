"""Texts by key in SQLite: one file for any number of processes, or the memory of this one.

A file is in WAL mode: readers never wait for writers, and a process that is killed while it writes leaves the file as it
was. Trouble with the file is logged, and is never the trouble of a correction. What lives elsewhere: what is stored (`cached.py`).
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.forking import Lock
from aligner_integrations.own_database import claim, keep_private

logger = logging.getLogger(__name__)

_APPLICATION = 0x416C6E72  # "Alnr": marks the file as ours
_BUSY = 5.0  # seconds to wait for another process that writes
_KEYS_AT_ONCE = 500
_opening = Lock(forks_wait=True)
_TABLE = """
CREATE TABLE IF NOT EXISTS kept
(key BLOB NOT NULL UNIQUE, written REAL NOT NULL, text TEXT NOT NULL, checksum BLOB NOT NULL)
"""
# What a damaged file makes SQLite and its Python side raise.
_TROUBLE = (sqlite3.Error, ValueError, OverflowError)


def _checksum(key: bytes, text: str) -> bytes:
    return hashlib.blake2b(key + text.encode(), digest_size=8).digest()


class Store:
    """A bounded table of texts. Safe to share between threads; not to be carried over a fork.

    Args:
        path: The file; None: in memory.
        ttl: Seconds for which a text is kept; None: as long as there is room.
        max_bytes: Most bytes that are kept; the oldest texts go first.

    Raises:
        ConfigurationError: The file cannot be used, or a number makes no sense.
    """

    def __init__(self, path: str | Path | None, *, ttl: float | None, max_bytes: int) -> None:
        if ttl is not None and not ttl > 0:
            raise ConfigurationError(f"ttl is {ttl}; it takes seconds above 0, or None.")
        if max_bytes < 2**16:
            raise ConfigurationError(f"max_bytes is {max_bytes}; a cache needs {2**16} at least.")
        self.path = None if path is None else Path(path)
        self.ttl = ttl
        self.max_bytes = max_bytes
        self._fine = True
        try:
            self._writer = self._open()
            self._reader = self._writer if path is None else self._open()
        except (OSError, *_TROUBLE) as error:
            raise ConfigurationError(
                f"{path} cannot be used as a cache: {error}. Name a file that can be written, or one that does not exist."
            ) from error
        # A child would inherit what SQLite thinks of a transaction that is under way, and wait for its end for ever.
        self._write_lock = Lock(forks_wait=True)
        # Readers of a file do not wait for writers; in memory there is but one connection.
        self._read_lock = self._write_lock if path is None else Lock(forks_wait=True)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return the texts that are there."""
        oldest = 0.0 if self.ttl is None else time.time() - self.ttl
        found: dict[bytes, str] = {}
        try:
            with self._read_lock:
                for start in range(0, len(keys), _KEYS_AT_ONCE):
                    part = keys[start : start + _KEYS_AT_ONCE]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, text, checksum FROM kept WHERE key IN ({marks}) AND written > ?"  # noqa: S608 - marks only
                    for key, text, checksum in self._reader.execute(query, (*part, oldest)):
                        # A disk may turn a bit, and a wrong text is worse than none.
                        if isinstance(text, str) and checksum == _checksum(key, text):
                            found[key] = text
        except _TROUBLE as error:
            self._complain("read", error)
        return found

    def put(self, texts: Mapping[bytes, str]) -> None:
        """Keep texts, and forget those that are too old or too many."""
        now = time.time()
        try:
            with self._write_lock, self._writer as transaction:
                transaction.execute("BEGIN IMMEDIATE")
                transaction.executemany(
                    "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)",
                    [(key, now, text, _checksum(key, text)) for key, text in texts.items()],
                )
                self._prune(transaction, now)
            self._fine = True
        except _TROUBLE as error:
            self._complain("written", error)

    def clear(self) -> None:
        """Forget everything."""
        with self._write_lock, self._writer as transaction:
            transaction.execute("DELETE FROM kept")

    def close(self) -> None:
        """Close the file; the store cannot be used after that."""
        with self._write_lock:
            self._writer.close()
        if self._reader is not self._writer:
            with self._read_lock:
                self._reader.close()

    def __len__(self) -> int:
        """How many texts are there, with those that are too old but not yet gone."""
        with self._read_lock:
            return int(self._reader.execute("SELECT count(*) FROM kept").fetchone()[0])

    @property
    def used_bytes(self) -> int:
        """How much of the file or the memory is in use."""
        with self._write_lock:
            return self._used(self._writer)

    def _prune(self, connection: sqlite3.Connection, now: float) -> None:
        # Rows are numbered as they come, so the first ones are the oldest.
        if self.ttl is not None:
            connection.execute(
                "DELETE FROM kept WHERE rowid IN (SELECT rowid FROM kept ORDER BY rowid LIMIT 100) AND written <= ?",
                (now - self.ttl,),
            )
        while self._used(connection) > self.max_bytes:
            gone = connection.execute(
                "DELETE FROM kept WHERE rowid IN "
                "(SELECT rowid FROM kept ORDER BY rowid LIMIT (SELECT count(*) / 10 + 1 FROM kept))"
            )
            if not gone.rowcount:
                break

    @staticmethod
    def _used(connection: sqlite3.Connection) -> int:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _open(self) -> sqlite3.Connection:
        with _opening:
            if self.path is not None:
                keep_private(self.path)
            connection = sqlite3.connect(
                self.path or ":memory:", timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        until = time.monotonic() + _BUSY
        while connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:  # another process does the same; SQLite does not wait for it by itself
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            claim(connection, _APPLICATION)
            columns = [row[1] for row in connection.execute("PRAGMA table_info(kept)")]
            if columns and "checksum" not in columns:  # an older version's
                connection.execute("DROP TABLE kept")
            connection.execute(_TABLE)

    def _complain(self, what: str, error: Exception) -> None:
        if self._fine:
            logger.warning("The cache %s cannot be %s (%s); corrections go on without it.", self.path, what, error)
        self._fine = False
