"""Reading JSON Lines: one object a line, errors that name the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aligner_integrations.errors import ConfigurationError


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON Lines file, also `.gz`.

    Raises:
        ConfigurationError: The file cannot be read, or a line is not a JSON object.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as lines
        ):
            yield from parse_jsonl(lines, str(path))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigurationError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error


def parse_jsonl(lines: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of JSON lines; blank lines are passed over.

    Raises:
        ConfigurationError: A line is not a JSON object; the message says which, calling the whole `name`.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{name}, line {number}: this is not JSON ({error}).") from error
        if not isinstance(data, dict):
            raise ConfigurationError(f"{name}, line {number}: a row is an object, this is {type(data).__name__}.")
        yield number, data
