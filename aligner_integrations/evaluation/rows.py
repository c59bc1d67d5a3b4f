"""The rows quality is measured on, and reading JSON Lines. What is computed from them lives in `quality.py`."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aligner_integrations.errors import ConfigurationError

Kind = Literal["rude", "good", "mixed"]
"""rude: must become civil. good: must come back as it is. mixed: a good answer with one rude sentence in it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to measure an aligner on.

    Attributes:
        kind: What the aligner should do with it; see `Kind`.
        question: The question.
        answer: The answer to correct.
        source: Where it comes from; good answers are also counted by source.
        references: Human rewrites, at least one; of rude rows only.
        inserted: The rude sentence as it stands in the answer, exactly once; of mixed rows only.

    Raises:
        ConfigurationError: The fields do not fit the kind.
    """

    kind: Kind
    question: str
    answer: str
    source: str = ""
    references: tuple[str, ...] = ()
    inserted: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigurationError(f"its kind is {self.kind!r}, not one of {', '.join(get_args(Kind))}.")
        if not self.answer.strip():
            raise ConfigurationError("its answer is empty.")
        if self.kind == "rude" and not self.references:
            raise ConfigurationError("a rude row needs references.")
        if self.kind == "mixed" and not self.inserted.strip():
            raise ConfigurationError("a mixed row needs the inserted sentence.")
        # With two places there would be no telling which text is "every other sentence".
        if self.kind == "mixed" and (places := self.answer.count(self.inserted)) != 1:
            raise ConfigurationError(f"its inserted sentence stands {places} times in the answer instead of once.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read a row; keys it does not know are ignored.

        Raises:
            ConfigurationError: A key is missing or of the wrong type, or the fields do not fit the kind.
        """
        texts = {key: data.get(key, "") for key in ("source", "inserted")}
        for key in ("kind", "question", "answer"):
            if key not in data:
                raise ConfigurationError(f"it has no {key}.")
            texts[key] = data[key]
        for key, value in texts.items():
            if not isinstance(value, str):
                raise ConfigurationError(f"its {key} is {type(value).__name__}, not text.")
        references = data.get("references", ())
        if not isinstance(references, list | tuple) or not all(isinstance(text, str) for text in references):
            raise ConfigurationError("its references are not a list of texts.")
        return cls(**texts, references=tuple(references))


def read_rows(path: Path) -> list[Row]:
    """Read rows from JSON Lines, also `.gz`.

    Raises:
        ConfigurationError: The file cannot be read, holds no rows, or a row does not fit; the message names the line.
    """
    rows = []
    for number, data in read_jsonl(path):
        try:
            rows.append(Row.from_dict(data))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise ConfigurationError(f"{path} holds no rows.")
    return rows


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
