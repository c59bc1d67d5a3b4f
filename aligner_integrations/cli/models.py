"""`aligner models`: the aligners this package knows by name, and the prompt templates."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Annotated

import typer

from aligner_integrations.cli.console import console, echo_json, note, print_indented, print_table, styled
from aligner_integrations.cli.options import JsonOption
from aligner_integrations.models import EMBEDDED, KNOWN_MODELS, REVISIONS, SMOLLM2, packaged_smollm2
from aligner_integrations.templates import TEMPLATES

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")


def models(
    templates: Annotated[bool, typer.Option("--templates", help="List the prompt templates instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the known aligners: template, licence, size, and whether the weights are on this machine."""
    if templates:
        _list_templates(as_json=as_json)
        return
    cached = _cached_files()
    known = [
        {
            **dataclasses.asdict(model),
            "local": _embedded_is_local(cached)
            if model.name == "embedded"
            else _is_cached(cached, model.name, model.revision),
        }
        for model in KNOWN_MODELS.values()
    ]
    if as_json:
        echo_json(known)
        return
    out = console()
    width = max(len(one["name"]) for one in known)
    out.print(styled((f"{'model':{width}}  size  here", "bold")))
    for one in known:
        out.print(styled((f"{one['name']:{width}}  {one['size']:>4}  {'yes' if one['local'] else 'no'}", "")))
        print_indented(out, f"{one['note']}; licence: {one['licence']}; template: {one['template']}")
    note("Any other causal LM on the Hub or in a folder works too, if its template is known or given (--template).")


def _list_templates(*, as_json: bool) -> None:
    if as_json:
        echo_json([{**template.to_dict(), "extra_fields": template.extra_fields} for template in TEMPLATES.values()])
        return
    lines = [[one.name, ", ".join(one.extra_fields), one.source] for one in TEMPLATES.values()]
    print_table([["template", "extra fields", "source"], *lines])
    note("Their exact texts: aligner models --templates --json")


# Which weights are here -----------------------------------------------------------------------------------------------

_Cached = dict[str, list[tuple[set[str], list[str]]]]
"""Hub id -> for each revision, its names (commit, branches, tags) and its files."""


def _cached_files() -> _Cached:
    """What is in the Hub's cache; asks no network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return {}
    return {
        repo.repo_id: [({one.commit_hash, *one.refs}, [file.file_name for file in one.files]) for one in repo.revisions]
        for repo in cache.repos
        if repo.repo_type == "model"
    }


def _is_cached(cached: _Cached, name: str, revision: str | None) -> bool:
    return any(_complete(files) for names, files in cached.get(name, []) if revision is None or revision in names)


def _complete(files: Iterable[str]) -> bool:
    """Whether there are weights, and of sharded ones all parts."""
    weights = [name for name in files if name.endswith(".safetensors")]
    parts = [match for name in weights if (match := _SHARD.search(name))]
    return len(parts) == int(parts[0].group(2)) if parts else bool(weights)


def _embedded_is_local(cached: _Cached) -> bool:
    """Whether the adapter is in this installation, and its base in a package or the cache."""
    adapter = any(EMBEDDED.glob("*.safetensors"))
    return adapter and (packaged_smollm2() is not None or _is_cached(cached, SMOLLM2, REVISIONS[SMOLLM2]))
