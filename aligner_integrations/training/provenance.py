"""What a stage of a training was made of, beside what it came to: so that nothing is taken for the work of other data.

Each stage leaves a JSON file, written when all else of it is there. A later run that was told the same skips the stage; one
that was told something else is an error, because a folder with weights of one data set and the card of another would lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.models import SMOLLM2, locate_base

MADE_OF = "made_of"
"""The key under which a stage's file names what it was made of: a digest for each of data, base, template and so on."""


def digest(values: Iterable[Any]) -> str:
    """Return the SHA-256 of values that JSON can hold; other values count by their repr."""
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, default=repr, ensure_ascii=False).encode())
        found.update(b"\n")
    return found.hexdigest()


def digest_of_files(*paths: Path) -> str:
    """Return the SHA-256 of the contents of files, by name; what is not there counts as such."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.name.encode() + (path.read_bytes() if path.exists() else b"\0absent"))
    return found.hexdigest()


def digest_of_base(base: str, revision: str | None) -> str:
    """Name a base model: its files by name and size, and its configuration; weights of many gigabytes are not read for it."""
    folder, gguf_file = locate_base(SMOLLM2 if base == "embedded" else base, revision)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if gguf_file is not None:
        files = [folder / gguf_file]
    configuration = digest_of_files(folder / "config.json")
    return digest([base, revision, configuration, *((path.name, path.stat().st_size) for path in files)])


def read_stage(path: Path, made_of: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a stage has left, or None if it is still to be done.

    Args:
        path: The stage's file.
        made_of: What the stage would be made of now.

    Raises:
        ConfigurationError: It was made of something else, or its file is damaged.
    """
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before = dict(found[MADE_OF])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is damaged, or of an older version ({type(error).__name__}). Delete it, and this stage is done again, or "
            "name another folder with --output."
        ) from error
    if other := sorted(name for name in {*made_of, *before} if made_of.get(name) != before.get(name)):
        raise ConfigurationError(
            f"{path.parent} holds the result of other {' and '.join(other)} ({path.name} says so). Name another folder with "
            "--output, or delete this one."
        )
    return found


def read_result(path: Path) -> dict[str, Any] | None:
    """Return what a stage came to, whatever it was made of; None if it left nothing."""
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found and {name: value for name, value in found.items() if name != MADE_OF}


def write_stage(path: Path, result: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
    """Write what a stage came to; the file is there whole, or not at all."""
    write_whole(path, json.dumps({**result, MADE_OF: dict(made_of)}, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file beside, and then rename it: whoever is killed in between leaves what was there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


@contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; its files are moved to `folder` once all of them are written."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".new-") as name:
        beside = Path(name)
        yield beside
        for path in sorted(beside.iterdir()):
            path.replace(folder / path.name)
