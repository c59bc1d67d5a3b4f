"""What a run leaves on disk so that the next one goes on: a manifest, a journal, and the shards that are done.

    OUT.manifest.json          what OUT is made of; at the end what came of it
    OUT.shards/1-of-1.journal  a line for each shard that is done
    OUT.shards/0000007.rows    the shard itself, and .dead the rows of it that could not be corrected

A shard counts once its line is in the journal, and that is written when the shard is on disk. So whatever a process dies of, a
shard is there whole or not at all. What lives elsewhere: how rows become bytes (`writers.py`), who writes when (`run.py`).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from aligner_integrations.errors import ConfigurationError, DiskError

_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What the journal says of a shard.

    Attributes:
        shard: Its number, from 0.
        rows: Rows in it that were corrected.
        dead: Rows in it that were not.
        outcomes: How many rows came to which outcome.
        size: Bytes of its file.
        sha256: Of its file.
    """

    shard: int
    rows: int
    dead: int
    outcomes: dict[str, int]
    size: int
    sha256: str


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Make sentences of what a disk refuses.

    Raises:
        DiskError: It is full, or may not be written to.
    """
    try:
        yield
    except OSError as error:
        what = "The disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise DiskError(
            f"{what}: {path} cannot be written. What was done is kept; the same command goes on from there."
        ) from error


class Store:
    """The files of one corpus.

    Args:
        out: The file that the corrected corpus comes to.
        part: Which part of the shards this process does, and of how many: (1, 1) is all of them.
    """

    def __init__(self, out: Path, part: tuple[int, int] = (1, 1)) -> None:
        self.out, self.part = out, part
        self.manifest = out.with_name(out.name + ".manifest.json")
        self.dead = out.with_name(out.name + ".dead.jsonl")
        self.folder = out.with_name(out.name + ".shards")
        self._journal = self.folder / f"{part[0]}-of-{part[1]}.journal"

    # What it is made of ----------------------------------------------------------------------------------------------

    def read_manifest(self) -> dict[str, Any] | None:
        """Return what the manifest says; None if there is none.

        Raises:
            ConfigurationError: It is damaged, or there is an output without one.
        """
        if not self.manifest.exists():
            if self.out.exists():
                raise ConfigurationError(
                    f"{self.out} is there already, and nothing says what it is made of. Name another file, or delete it."
                )
            return None
        try:
            found: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))
            _ = found["made_of"], found["finished"], found["sources"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{self.manifest} is damaged ({type(error).__name__}). Delete it with {self.out.name} and {self.folder.name}, or "
                "name another output."
            ) from error
        return found

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Write what the corpus is made of, and what came of it."""
        self._write_whole(self.manifest, [json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from doing the same part.

        Raises:
            ConfigurationError: One of them does.
        """
        with on_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / f"{self.part[0]}-of-{self.part[1]}.lock").open("w")
        with lock:
            if not _lock(lock):
                raise ConfigurationError(f"Another process is at work on {self.out}. Wait for it, or end it.")
            yield

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Wait until no other process makes the output."""
        with on_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "output.lock").open("w")
        with lock:
            _lock(lock, wait=True)
            yield

    # Shards ----------------------------------------------------------------------------------------------------------

    def entries(self) -> dict[int, ShardEntry]:
        """Return the shards that are done, whoever did them."""
        found: dict[int, ShardEntry] = {}
        if not self.folder.is_dir():
            return found
        paths = [path for path in self.folder.iterdir() if path.suffix in (".rows", ".journal")]
        sizes = {path.name: path.stat().st_size for path in paths}
        for name in sorted(sizes):
            if not name.endswith(".journal"):
                continue
            for line in (self.folder / name).read_bytes().splitlines():
                try:
                    entry = ShardEntry(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # the end of a line that nobody could finish
                if sizes.get(_rows_name(entry.shard)) == entry.size:
                    found[entry.shard] = entry
        return found

    def write_shard(
        self, shard: int, rows: bytes, counts: Mapping[str, int], dead: Iterable[Mapping[str, Any]]
    ) -> ShardEntry:
        """Write a shard, and then that it is done.

        Args:
            shard: Its number.
            rows: Its corrected rows, as they come into the output.
            counts: How many rows came to which outcome.
            dead: The rows that were not corrected, as they come into the dead letters.

        Raises:
            DiskError: It cannot be written.
        """
        letters = [
            json.dumps(letter, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" for letter in dead
        ]
        path = self.folder / _rows_name(shard)
        if letters:
            self._write_whole(path.with_suffix(".dead"), letters)
        self._write_whole(path, [rows])
        digest = sha256(rows).hexdigest()
        entry = ShardEntry(shard, sum(counts.values()), len(letters), dict(counts), len(rows), digest)
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with on_disk(self._journal), self._journal.open("ab") as journal:
            if journal.tell() and not _ends_a_line(self._journal):
                line = b"\n" + line
            journal.write(line)
            journal.flush()
            os.fsync(journal.fileno())
        return entry

    def shard_bytes(self, entries: Iterable[ShardEntry]) -> Iterator[bytes]:
        """Yield the files of shards.

        Raises:
            ConfigurationError: One is not what was written.
        """
        for entry in entries:
            data = (self.folder / _rows_name(entry.shard)).read_bytes()
            if sha256(data).hexdigest() != entry.sha256:
                path = self.folder / _rows_name(entry.shard)
                raise ConfigurationError(f"{path} is damaged. Delete it, and the same command does this shard again.")
            yield data

    def write_out(self, pieces: Iterable[bytes]) -> tuple[int, str]:
        """Write the output; return its bytes and their SHA-256."""
        return self._write_whole(self.out, pieces)

    def write_dead(self, entries: Iterable[ShardEntry]) -> None:
        """Write the dead letters, if there are any."""
        files = [self.folder / f"{entry.shard:07d}.dead" for entry in entries if entry.dead]
        if files:
            self._write_whole(self.dead, (file.read_bytes() for file in files))
        else:
            self.dead.unlink(missing_ok=True)

    def remove_shards(self) -> None:
        """Delete what is no longer needed once the output is there."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _write_whole(self, path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
        """Write a file among the shards, make sure that it is on disk, and then rename it."""
        beside, size, digest = self.folder / f"{path.name}.{uuid4().hex}.new", 0, sha256()
        try:
            with on_disk(path):
                with beside.open("wb") as file:
                    for piece in pieces:
                        file.write(piece)
                        digest.update(piece)
                        size += len(piece)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
                _sync_folder(path.parent)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        return size, digest.hexdigest()


def _rows_name(shard: int) -> str:
    return f"{shard:07d}.rows"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _sync_folder(folder: Path) -> None:
    """Make sure that a new name is on disk, too, where folders can be synchronised."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _lock(file: IO[Any], *, wait: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
