"""What was made of weights, kept on disk so that it is made once; of a GGUF file that is all but the weights themselves.

One folder for each combination of files and library versions, in the user's cache. `ALIGNER_WEIGHTS_CACHE` names another
place, or `off` for none. What is found there is trusted only when every file's checksum is right, and made again
otherwise; it is written beside its place first and then renamed, so nobody ever sees half of it. That whatever happens
here only costs time, never a correction, is the rule of this module. What is made: `gguf.py`; what is on the disk: `aligner cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

logger = logging.getLogger(__name__)

VARIABLE = "ALIGNER_WEIGHTS_CACHE"
_MANIFEST = "manifest.json"
_FORMAT = "2"
# Folders that stay: one for each of two environments with other library versions.
_KEPT = 2
# What a process that died left behind is taken away after a day.
_ABANDONED = 24 * 3600


def place() -> Path | None:
    """Return the folder for converted weights, whether it is there or not; None if there is to be none."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    # A folder of our own in any case: old weights are removed from it.
    return Path(chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aligner-integrations-weights"


def cache_folder() -> Path | None:
    """Return the folder for converted weights, made if need be; None if there is to be none, or none that is safe."""
    if (folder := place()) is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        logger.info("Converted weights are not kept: %s.", error)
        return None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        logger.warning("Converted weights are not kept in %s: others than this user may write there.", folder)
        return None
    return folder


def key_of(*parts: Path | str) -> str:
    """Return a key for files, by their content, and strings, with the versions of the libraries that convert them."""
    digest = hashlib.sha256()
    for name in ("format", "transformers", "gguf"):
        digest.update(f"{name} {_FORMAT if name == 'format' else version(name)}\n".encode())
    for part in parts:
        digest.update(f"{_checksum(part) if isinstance(part, Path) else part}\n".encode())
    return digest.hexdigest()[:32]


def find(key: str) -> Path | None:
    """Return the folder that was stored under a key, if all of it is there as it was written."""
    cache = cache_folder()
    if cache is None or not (folder := cache / key).is_dir():
        return None
    try:
        wanted = json.loads((folder / _MANIFEST).read_text("utf-8"))
        if wanted == _checksums(folder):
            os.utime(folder)  # which one was used last decides which ones stay
            return folder
        reason = "a checksum is wrong"
    except (OSError, ValueError) as error:
        reason = str(error)
    logger.warning("The converted weights in %s cannot be used (%s), so they are made again.", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def store(key: str, save: Callable[[Path], None]) -> None:
    """Keep under a key what `save` writes into the folder it is given."""
    cache = cache_folder()
    if cache is None:
        return
    try:
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-", ignore_cleanup_errors=True) as place:
            half = Path(place) / key
            half.mkdir()
            save(half)
            (half / _MANIFEST).write_text(json.dumps(_checksums(half), indent=1), "utf-8")
            half.rename(cache / key)
    except OSError as error:  # a full disk; or another process was faster, which is as good
        logger.info("The converted weights are not kept in %s: %s.", cache, error)
    _tidy(cache)


def _tidy(cache: Path) -> None:
    """Remove what was not used for longest, and what was never finished."""
    with contextlib.suppress(OSError):
        ages = sorted((folder.stat().st_mtime, folder) for folder in cache.iterdir() if folder.is_dir())
        whole = [folder for _, folder in ages if not folder.name.startswith("new-")]
        left = [folder for age, folder in ages if folder not in whole and time.time() - age > _ABANDONED]
        for folder in [*left, *whole[:-_KEPT]]:
            shutil.rmtree(folder, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: _checksum(path) for path in sorted(folder.iterdir()) if path.name != _MANIFEST}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return hashlib.sha256().hexdigest()
        # In one piece, so that other threads run meanwhile: between two pieces each of them would make this one wait.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()
