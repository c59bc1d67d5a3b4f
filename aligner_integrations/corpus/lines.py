"""Lines of text files as bytes, compressed or not, however long one of them is.

As bytes, because a reader of text dies of the first byte that is no UTF-8, and a corpus shall lose no more than that line.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from aligner_integrations.errors import ConfigurationError, require

LONGEST_LINE = 16 * 2**20
"""Bytes; what is longer is passed over without being held in memory."""

_CHUNK = 2**20
_BOM = b"\xef\xbb\xbf"


def compression_of(name: str) -> str:
    """Return ".gz", ".zst" or "", whichever a file's name ends in."""
    return next((ending for ending in (".gz", ".zst") if name.endswith(ending)), "")


@contextmanager
def opened(path: Path, raw: BinaryIO | None = None) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if its name says that it is compressed.

    Args:
        path: The file.
        raw: What its bytes are read from instead of the file itself.

    Raises:
        ConfigurationError: It cannot be read, or is no whole file of its kind.
        MissingDependencyError: It is Zstandard, and pyarrow is not installed.
    """
    how = compression_of(path.name)
    try:
        with raw or path.open("rb") as file:
            if how == ".gz":
                with gzip.open(file) as stream:
                    yield cast("IO[bytes]", stream)
            elif how == ".zst":
                yield _zstandard(file)
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigurationError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        if how == ".zst" and error.errno is None:  # pyarrow's own
            raise ConfigurationError(f"{path} is not a whole Zstandard file: {error}") from error
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error


def _zstandard(file: BinaryIO) -> IO[bytes]:
    # pyarrow's, which tells an end from a cut.
    with require("corpus", "Reading files that end in .zst needs {missing}", "pyarrow"):
        import pyarrow
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), _CHUNK)


def lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number from 1, line with its end); None stands for a line that is longer than `LONGEST_LINE`."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) <= LONGEST_LINE:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_CHUNK)
        yield number, None


class Hashed(io.RawIOBase):
    """A file whose bytes are digested as they are read."""

    def __init__(self, file: BinaryIO, on_read: Callable[[int], object]) -> None:
        self._file, self._digest, self._on_read = file, hashlib.sha256(), on_read

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        self._on_read(len(data))
        return len(data)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all of the file, also of what nobody has asked for."""
        while data := self._file.read(_CHUNK):
            self._digest.update(data)
        return self._digest.hexdigest()
