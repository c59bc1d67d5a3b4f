"""`aligner cache`: what is on the disk, and freeing what this package made; of others' caches nothing is deleted."""

import json

import pytest

from aligner_integrations.backends.local import converted
from aligner_integrations.models import SMOLLM2


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A cache of our own with one folder, and the Hub's with a model that is known and one that is not."""
    monkeypatch.setenv(converted.VARIABLE, str(tmp_path / "own"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in (SMOLLM2, "some/other"):
        snapshot = tmp_path / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(b"x" * 2000)
    folder = converted.place() / "key"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(b"x" * 1500)
    return folder


def test_shows_what_is_there(run, place):
    done = run("cache")
    assert done.exit_code == 0
    assert "1.5 kB" in done.stdout and str(place) in done.stdout and "tokenizer" in done.stdout
    assert SMOLLM2 in done.stdout and "some/other" not in done.stdout
    assert "hf cache rm" in done.stderr
    told = json.loads(run("cache", "--json").stdout)
    assert [one["bytes"] for one in told["own"]] == [1500] and [one["what"] for one in told["hub"]] == [SMOLLM2]


def test_clear_frees_what_is_ours_alone(run, place, tmp_path):
    done = run("cache", "--clear")
    assert (done.exit_code, place.exists()) == (0, False)
    assert "Freed 1.5 kB" in done.stderr
    assert len(list((tmp_path / "hub").rglob("*.safetensors"))) == 2
    assert json.loads(run("cache", "--clear", "--json").stdout)["freed_bytes"] == 0


@pytest.mark.parametrize(("chosen", "words"), [("off", "nothing is kept"), ("elsewhere", "it would be in")])
def test_nothing_there(run, monkeypatch, tmp_path, chosen, words):
    monkeypatch.setenv(converted.VARIABLE, chosen if chosen == "off" else str(tmp_path / chosen))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"))
    done = run("cache")
    assert done.exit_code == 0 and words in done.stderr
    assert not (tmp_path / chosen).exists()
