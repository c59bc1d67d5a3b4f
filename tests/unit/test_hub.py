"""Sentences for what fails before or beside the Hub; its own answers are in tests/integration/test_hub.py."""

import errno

import pytest

from aligner_integrations import hub
from aligner_integrations.errors import ModelDownloadError, ModelNotFoundError
from aligner_integrations.hub import fetch_file, fetch_model


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def fetch_config(repo, revision):
    return fetch_file(repo, "config.json", revision)


@pytest.fixture(params=[fetch_model, fetch_config], ids=lambda f: f.__name__)
def fetch(request):
    return request.param


def test_offline(fetch):
    with pytest.raises(ModelDownloadError, match="HF_HUB_OFFLINE forbids") as caught:
        fetch("aligner/aligner-7b-v1.0", None)
    assert "aligner/aligner-7b-v1.0 is not in the local cache" in str(caught.value)
    assert caught.value.retryable


def test_the_revision_is_named(fetch):
    with pytest.raises(ModelDownloadError, match="some/model at revision abc123 is not"):
        fetch("some/model", "abc123")


@pytest.mark.parametrize("name", ["no such folder", "name with space/x", "a--b", "-x/y"])
def test_not_an_id(fetch, name):
    with pytest.raises(ModelNotFoundError, match="neither a folder here nor the id") as caught:
        fetch(name, None)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Check disk space"),
        (PermissionError(errno.EACCES, "Permission denied"), "PermissionError: Permission denied"),
        (RuntimeError("peer closed connection"), r"was cut \(RuntimeError\)"),
    ],
)
def test_disk_and_wire(monkeypatch, error, sentence):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(ModelDownloadError, match=sentence) as caught:
        fetch_model("some/model", None)
    assert "call again" in str(caught.value).lower()
    assert caught.value.__cause__ is error


def test_only_what_is_safe_is_asked_for(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **options: asked.update(options, repo=repo) or tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert fetch_model("some/model", "abc") == tmp_path
    assert (asked["repo"], asked["revision"]) == ("some/model", "abc")
    assert not any(pattern.endswith((*hub.PICKLED, ".py", "*")) for pattern in asked["allow_patterns"])


def test_a_repository_without_weights(monkeypatch, tmp_path):
    class Api:
        def list_repo_files(self, repo, revision):
            return ["README.md"]

    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **_: tmp_path)
    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(ModelNotFoundError, match="holds no safetensors"):
        fetch_model("some/model", None)
