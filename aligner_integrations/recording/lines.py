"""Records as lines of a file that many processes append to: one at a time, whole lines only, rotated by size and day.

A lock file beside it says whose turn it is, because the file itself is renamed. The file is opened anew for each batch, so that nobody
appends to one that was rotated meanwhile. What a killed process left half written was never flushed, and is cut off by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.forking import Lock
from aligner_integrations.recording.records import Record

_TURN = 30.0
"""Seconds to wait for the other processes."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_TAIL = 2**16


class LinesFile:
    """A file of records.

    Args:
        path: The file.
        max_bytes: Above this it is renamed, and a new one begun.
        daily: Whether that is also done at the first record of a day (UTC).

    Raises:
        ConfigurationError: It cannot be written to, or holds something else.
    """

    def __init__(self, path: Path, *, max_bytes: int, daily: bool) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._daily = daily
        self._lock_path = path.with_name(f".{path.name}.lock")
        # Within this process; and no fork takes the lock file along while it is held.
        self._turn = Lock(forks_wait=True)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._mine() as file:
                self._check(file)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be recorded to: {error.strerror or error}. Name a file that can be written, or a new one."
            ) from error

    def write(self, records: Sequence[Record]) -> None:
        """Append records: all of them, or none.

        Raises:
            OSError: The disk refuses.
        """
        data = b"".join(record.to_json().encode() + b"\n" for record in records)
        with self._mine() as file:
            size = self._mend(file)
            if size and (size + len(data) > self._max_bytes or (self._daily and self._is_of_another_day(file))):
                os.fsync(file)
                self._rotate()
                with self._opened() as new:
                    self._append(new, 0, data)
            else:
                self._append(file, size, data)

    def sync(self) -> None:
        """Wait until what was written has reached the disk; what was rotated has reached it before."""
        with self._mine() as file:
            os.fsync(file)

    @contextlib.contextmanager
    def _mine(self) -> Iterator[int]:
        """The file, opened, while no other thread or process writes to it."""
        lock = FileLock(self._lock_path, timeout=_TURN, mode=0o600, poll_interval=0.003)
        try:
            with self._turn, lock, self._opened() as file:
                yield file
        except Timeout as error:
            raise TimeoutError(f"another process has been writing to it for {_TURN:.0f} seconds") from error

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        # Through a link, or into a pipe, texts would go where nobody sees who reads them.
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(self.path.lstat().st_mode):
                raise OSError(f"it is a {_kind(self.path.lstat().st_mode)}, not a plain file")
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    def _check(self, file: int) -> None:
        """Refuse a file of something else, and let nobody but the owner read it."""
        os.lseek(file, 0, os.SEEK_SET)
        line, end, _ = os.read(file, _TAIL).partition(b"\n")
        if end:
            try:
                Record.from_dict(json.loads(line))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise ConfigurationError(
                    f"{self.path} holds something else than records of corrections; name another file."
                ) from error
        if os.fstat(file).st_mode & 0o077:
            self.path.chmod(0o600)

    def _mend(self, file: int) -> int:
        """Cut off half a line at the end; returns the size."""
        size = os.fstat(file).st_size
        end, tail = size, b""
        while end:
            start = max(0, end - _TAIL)
            os.lseek(file, start, os.SEEK_SET)
            tail = os.read(file, end - start) + tail
            if (last := tail.rfind(b"\n")) >= 0:
                tail = tail[last + 1 :]
                break
            end = start
        if not tail:
            return size
        try:
            json.loads(tail)
        except ValueError:
            os.ftruncate(file, size - len(tail))
            return size - len(tail)
        return size + os.write(file, b"\n")  # somebody's editor took the line's end away

    def _append(self, file: int, size: int, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            os.ftruncate(file, size)
            raise

    def _is_of_another_day(self, file: int) -> bool:
        last = datetime.fromtimestamp(os.fstat(file).st_mtime, UTC)
        return last.date() != datetime.now(UTC).date()

    def _rotate(self) -> None:
        while True:
            moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            to = self.path.with_name(f"{self.path.stem}.{moment}{self.path.suffix}")
            if not to.exists():
                self.path.rename(to)
                return
            time.sleep(1e-5)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISLNK: "link", stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for test, name in kinds.items() if test(mode)), "device")
