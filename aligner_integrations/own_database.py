"""SQLite files of this package's own: for their owner's eyes only, and never somebody else's database."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path


def keep_private(path: Path) -> None:
    """Create a database's file, or take from everybody but its owner what rights there are on it and on the files beside it.

    SQLite gives the files beside it the same permissions. A file that is there is never opened: closing it again would drop all locks
    this process has on it, and the database would break.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be made, or is no plain file.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_symlink() or not path.is_file():
            raise OSError("it is no plain file") from None
        for one in (path, *(Path(f"{path}-{beside}") for beside in ("wal", "shm"))):
            with contextlib.suppress(FileNotFoundError):
                if one.stat().st_mode & 0o077:
                    one.chmod(0o600)


def claim(connection: sqlite3.Connection, application: int) -> None:
    """Mark a new database as ours. Call it in a transaction.

    Args:
        connection: To the database.
        application: Its `application_id`: which of our databases it is.

    Raises:
        sqlite3.DatabaseError: It is a database of something else.
    """
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != application and (owner or tables):
        raise sqlite3.DatabaseError("it is a database of something else")
    connection.execute(f"PRAGMA application_id = {application}")
