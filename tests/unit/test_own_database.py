"""Databases of our own: nobody else reads them, and nobody else's is taken."""

import contextlib
import sqlite3
import sys

import pytest

from aligner_integrations.own_database import claim, keep_private

OURS = 0x414C4731

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes")


def mode(path):
    return path.stat().st_mode & 0o777


@posix
def test_a_new_file_and_one_that_others_could_read(tmp_path):
    path = tmp_path / "kept.db"
    keep_private(path)
    assert mode(path) == 0o600
    beside = tmp_path / "kept.db-wal"
    beside.touch()
    for one in (path, beside):
        one.chmod(0o644)
    keep_private(path)
    assert mode(path) == mode(beside) == 0o600


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_no_plain_file(tmp_path, kind):
    path = tmp_path / "kept.db"
    if kind == "folder":
        path.mkdir(mode=0o755)
    else:
        (tmp_path / "elsewhere").touch(mode=0o644)
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").chmod(0o644)
    before = mode(path)
    with pytest.raises(OSError, match="plain file"):
        keep_private(path)
    assert mode(path) == before


@pytest.mark.parametrize("foreign", ["PRAGMA application_id = 7", "CREATE TABLE kept (key)"])
def test_somebody_elses_database(foreign):
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(foreign)
        with pytest.raises(sqlite3.DatabaseError, match="something else"):
            claim(connection, OURS)


def test_a_new_one_is_ours_from_then_on():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        claim(connection, OURS)
        connection.execute("CREATE TABLE kept (key)")
        claim(connection, OURS)
        assert connection.execute("PRAGMA application_id").fetchone() == (OURS,)
