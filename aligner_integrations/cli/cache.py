"""`aligner cache`: what lies on the disk for this package, how large it is, and freeing it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from aligner_integrations.backends.local import converted
from aligner_integrations.cli.console import echo_json, note, print_table
from aligner_integrations.cli.options import JsonOption
from aligner_integrations.models import KNOWN_MODELS, SMOLLM2


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete what this package made; it is made again when needed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what lies on the disk for this package: what it made of weights, and the models it knows in the Hub's cache."""
    own, hub = _own(), _hub()
    freed = 0
    if clear:
        for one in own:
            shutil.rmtree(one["path"], ignore_errors=True)
            freed += one["bytes"]
        own = _own()
    if as_json:
        echo_json({"own": own, "hub": hub, "freed_bytes": freed})
        return
    if own or hub:
        lines = [[one["what"], _size(one["bytes"]), one["used"], one["path"]] for one in (*own, *hub)]
        print_table([["what", "size", "last used", "where"], *lines])
    folder = converted.place()
    if clear:
        note(f"Freed {_size(freed)}.")
    elif not own:
        where = "nothing is kept (ALIGNER_WEIGHTS_CACHE=off)" if folder is None else f"it would be in {folder}"
        note(f"Nothing made by this package is on the disk; {where}.")
    if hub:
        note("Models of the Hub are shared with other programs; `hf cache rm` deletes them.")


def _own() -> list[dict[str, Any]]:
    folder = converted.place()
    if folder is None or not folder.is_dir():
        return []
    found = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    return [_row("tokenizer of the base weights", path, _bytes(path), path.stat().st_mtime) for path in found]


def _hub() -> list[dict[str, Any]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    ours = {*KNOWN_MODELS, SMOLLM2}
    found = [repo for repo in repos if repo.repo_type == "model" and repo.repo_id in ours]
    return [
        _row(repo.repo_id, repo.repo_path, repo.size_on_disk, repo.last_accessed)
        for repo in sorted(found, key=lambda repo: repo.repo_id)
    ]


def _row(what: str, path: Path, size: int, used: float) -> dict[str, Any]:
    return {"what": what, "path": str(path), "bytes": size, "used": f"{datetime.fromtimestamp(used, UTC):%Y-%m-%d}"}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
