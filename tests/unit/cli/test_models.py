"""`aligner models`: what is known, and what of it is on this machine."""

import json
import re

import pytest

from aligner_integrations import models as known
from aligner_integrations.cli import models as module
from aligner_integrations.models import KnownModel
from aligner_integrations.templates import TEMPLATES

COMMIT = "a" * 40


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A Hub cache; returns a function that puts a repository's files into it."""
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path))

    def put(repository, *files, commit=COMMIT):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir()
        for number, file in enumerate(files):
            (folder / "blobs" / str(number)).write_bytes(b"x")
            (snapshot / file).symlink_to(folder / "blobs" / str(number))

    return put


def local(run):
    result = run("models", "--json")
    assert result.exit_code == 0
    return {one["name"]: one["local"] for one in json.loads(result.stdout)}


def test_lists_every_known_model(run):
    result = run("models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for model in known.KNOWN_MODELS.values():
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{model.name} ")]
        assert lines[at].split()[1:] in ([model.size, "yes"], [model.size, "no"])
        for words in (model.note, model.licence, model.template):
            assert words in lines[at + 1]


def test_fits_a_terminal_of_80_columns(run, monkeypatch):
    """Three or four lines a model at most, none of them wider than the terminal."""
    shown = run("models", env={"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": None}).stdout
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 4 * len(known.KNOWN_MODELS)


def test_nothing_is_here_without_a_cache(run, monkeypatch, tmp_path, cache):
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(module, "EMBEDDED", tmp_path)
    assert set(local(run).values()) == {False}


@pytest.mark.parametrize(
    ("files", "here"),
    [
        (["config.json", "model.safetensors"], True),
        (["config.json"], False),
        (["config.json", "pytorch_model.bin"], False),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], True),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], False),
    ],
)
def test_weights_count_only_when_whole(run, cache, files, here):
    cache("aligner/aligner-7b-v1.0", *files)
    assert local(run)["aligner/aligner-7b-v1.0"] is here


def test_only_the_pinned_revision_counts(run, cache, monkeypatch):
    cache("some/pinned", "model.safetensors", commit=COMMIT)
    for revision, here in ((COMMIT, True), ("b" * 40, False)):
        model = KnownModel("some/pinned", "paper", revision, "MIT", "1B", "")
        monkeypatch.setattr(module, "KNOWN_MODELS", {"some/pinned": model})
        assert local(run) == {"some/pinned": here}


def test_embedded_needs_adapter_and_base(run, cache, monkeypatch, tmp_path):
    adapter = tmp_path / "assets"
    adapter.mkdir()
    monkeypatch.setattr(module, "EMBEDDED", adapter)
    monkeypatch.setattr(module, "packaged_smollm2", lambda: tmp_path / "base.gguf")
    assert local(run)["embedded"] is False
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    assert local(run)["embedded"] is True
    monkeypatch.setattr(module, "packaged_smollm2", lambda: None)
    assert local(run)["embedded"] is False
    cache(known.SMOLLM2, "model.safetensors", commit=known.REVISIONS[known.SMOLLM2])
    assert local(run)["embedded"] is True


def test_templates(run):
    result = run("models", "--templates")
    assert result.exit_code == 0
    for name, template in TEMPLATES.items():
        row = next(line for line in result.stdout.splitlines() if f" {name} " in line)
        assert all(field in row for field in template.extra_fields)
    data = json.loads(run("models", "--templates", "--json").stdout)
    assert {one["name"]: one["text"] for one in data} == {name: one.text for name, one in TEMPLATES.items()}
    assert next(one["extra_fields"] for one in data if one["name"] == "metaaligner-hh") == ["aspects"]
