"""Aligners from a Hub, end to end: a client process with nothing but `HF_ENDPOINT` set, and a server on loopback.

huggingface_hub reads its settings when it is imported and torch is slow to import, so a process runs many cases; each
case has a repository of its own, and so its own part of the server's record.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aligner_integrations.models import REVISIONS, SMOLLM2
from tests.integration import tiny
from tests.integration.hub_server import Hub, Repo, commit_of, read_folder

pytestmark = pytest.mark.integration

TOKEN = "hf_of_nobody"
TEXT = tiny.TEMPLATE.text + " "
OLD, NEW = commit_of("old"), commit_of("new")

CLIENT = """
import json, resource, sys, time

pause = time.sleep
time.sleep = lambda seconds: pause(min(seconds, 0.01))  # retries need not be waited for

from aligner_integrations import Aligner, models
from aligner_integrations.backends.local.backend import LocalBackend

models.packaged_smollm2 = lambda: None  # so that this base, too, comes from the Hub


def run(case):
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (case.get("disk", free[0]), free[1]))
    try:
        backend = LocalBackend(case["model"], revision=case.get("revision"), device="cpu")
        correction = Aligner(backend=backend, template=case.get("template")).correct("Is it hot?", "No.")
        return {"text": correction.text}
    except BaseException as error:
        return {"error": type(error).__name__, "message": str(error)}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, free)


json.dump({case.get("as", case["model"]): run(case) for case in json.load(sys.stdin)}, sys.stdout)
"""

CASES = [
    {"model": "tiny/model"},
    {"model": "tiny/plain", "template": TEXT},
    {"model": "tiny/pinned", "revision": OLD},
    {"model": "tiny/pinned", "as": "newest"},
    {"model": "tiny/model", "revision": "9" * 40, "as": "no revision"},
    {"model": "tiny/adapter"},
    {"model": "tiny/gated"},
    {"model": "tiny/missing"},
    {"model": "not a name"},
    {"model": "tiny/pickled"},
    {"model": "tiny/code"},
    {"model": "tiny/crowded"},
    {"model": "tiny/cut"},
    {"model": "tiny/torn"},
    {"model": "tiny/torn", "as": "torn again"},
    {"model": "tiny/cdn"},
    {"model": "tiny/large", "disk": 100_000},
    {"model": "tiny/large", "as": "large again"},
    {"model": "tiny/mute"},
    {"model": "tiny/ill"},
]


class Client:
    """Runs cases in a process of their own; `cache` is its HF_HOME."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def __call__(self, endpoint: str, cases: list[dict], **settings: str) -> dict[str, dict[str, str]]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "ALIGNER"))}
        env = kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(self.cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).parents[2]), **settings}
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            input=json.dumps(cases),
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return Client(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def cdn(sure_model):
    """Another host with the same files."""
    with Hub() as server:
        server.add("tiny/cdn", sure_model)
        yield server


@pytest.fixture(scope="module")
def hub(tmp_path_factory, sure_model, cdn):
    folder = tmp_path_factory.mktemp("repositories")
    model = read_folder(sure_model)
    plain = {name: content for name, content in model.items() if name != "aligner_config.json"}
    other = read_folder(tiny.write_model(folder / "other", says=tiny.OTHER))
    # Larger than two of the blocks huggingface_hub writes, so that half of it is worth keeping.
    large = read_folder(tiny.write_model(folder / "large", says=tiny.SAYS, layers=1, intermediate=60_000))
    adapter = tiny.write_adapter(folder / "adapter", SMOLLM2, loaded_base=sure_model, neutral=True)
    pickled = {name: content for name, content in model.items() if not name.endswith(".safetensors")}
    config = json.loads(model["config.json"])
    code = json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling_tiny.Tiny"}}).encode()
    extra = {
        "pytorch_model.bin": b"pickle",
        "modeling_tiny.py": b"raise SystemExit",
        "consolidated.safetensors": b"the same again",
        "checkpoint-10/model.safetensors": b"an older one",
        "README.md": b"# Tiny",
    }
    with Hub() as server:
        server.add("tiny/model", model)
        server.add("tiny/plain", plain)
        server.repos["tiny/pinned"] = Repo({OLD: other, NEW: model}, NEW)
        server.add("tiny/adapter", adapter)
        server.repos[SMOLLM2] = Repo({REVISIONS[SMOLLM2]: model, NEW: other}, NEW)
        server.add("tiny/gated", model, gated=True)
        server.add("tiny/pickled", {**pickled, "pytorch_model.bin": b"pickle"})
        server.add("tiny/code", {**model, "config.json": code, "modeling_tiny.py": b"raise SystemExit"})
        server.add("tiny/crowded", {**model, **extra})
        server.add("tiny/cut", large, cuts=1)
        server.add("tiny/torn", large, cuts=1, resumable=False)
        server.add("tiny/cdn", model, cdn=cdn.url)
        server.add(
            "tiny/large",
            {**model, "model.safetensors": large["model.safetensors"], "config.json": large["config.json"]},
        )
        server.add("tiny/mute", model, status=0)
        server.add("tiny/ill", model, status=500)
        yield server


@pytest.fixture(scope="module")
def results(hub, client):
    """What came of each case, with the Hub up and a token set."""
    return client(hub.url, CASES, HF_TOKEN=TOKEN)


def failed(results, case: str, error: str, *words: str) -> None:
    """The error has the right type, and its message says these words in a sentence without a traceback."""
    result = results[case]
    assert result.get("error") == error, result
    for word in words:
        assert word in result["message"]
    assert len(result["message"]) < 400
    assert "Traceback" not in result["message"]


def test_a_model_by_its_id(results, hub):
    assert results["tiny/model"] == {"text": tiny.SAYS}
    assert hub.asked("tiny/model", "aligner_config.json")
    assert results["tiny/plain"] == {"text": tiny.SAYS}


def test_a_revision_is_pinned(results, hub):
    assert results["tiny/pinned"] == {"text": tiny.OTHER}
    assert results["newest"] == {"text": tiny.SAYS}
    asked = [seen.revision for seen in hub.asked("tiny/pinned")]
    first_new = next(i for i, revision in enumerate(asked) if revision != OLD)
    assert first_new > 5, "the files of the pinned commit were asked for"
    assert OLD not in asked[first_new:]


def test_models_this_package_names_are_pinned(results, hub):
    assert results["tiny/adapter"] == {"text": tiny.SAYS}
    assert {seen.revision for seen in hub.asked(SMOLLM2)} == {REVISIONS[SMOLLM2]}
    assert hub.asked(SMOLLM2, "model.safetensors")


def test_an_unknown_revision(results):
    failed(results, "no revision", "ModelNotFoundError", "tiny/model", "no revision", "9999")


def test_a_gated_repository(results, hub):
    failed(results, "tiny/gated", "ModelAccessError", "tiny/gated is gated", "Accept its terms", "HF_TOKEN")


def test_a_missing_repository(results):
    failed(results, "tiny/missing", "ModelNotFoundError", "no repository tiny/missing")
    failed(results, "not a name", "ModelNotFoundError", "'not a name'")


def test_pickled_weights_are_refused_unseen(results, hub):
    failed(results, "tiny/pickled", "UnsafeWeightsError", "pickled weights only", "pytorch_model.bin")
    assert hub.asked("tiny/pickled")
    assert not hub.asked("tiny/pickled", ".bin")


def test_code_is_refused_unseen(results, hub):
    failed(results, "tiny/code", "UnsafeWeightsError", "auto_map")
    assert not hub.asked("tiny/code", ".py")


def test_only_what_is_needed_is_fetched(results, hub):
    assert results["tiny/crowded"] == {"text": tiny.SAYS}
    fetched = {seen.file for seen in hub.asked("tiny/crowded") if seen.method == "GET" and seen.file}
    assert {f for f in fetched if not f.endswith(".json")} == {"model.safetensors"}


def test_a_cut_download_is_resumed(results, hub):
    assert results["tiny/cut"] == {"text": tiny.SAYS}
    size = len(hub.repos["tiny/cut"].commits[commit_of("tiny/cut")]["model.safetensors"])
    first, second = [seen for seen in hub.asked("tiny/cut", "model.safetensors") if seen.method == "GET"]
    assert (first.range, first.sent) == (None, size // 2)
    assert second.range is not None
    assert 0 < second.sent < size


def test_a_download_that_cannot_go_on_is_taken_up_by_the_next_call(results, hub):
    failed(results, "tiny/torn", "ModelDownloadError", "tiny/torn", "Call again")
    assert results["torn again"] == {"text": tiny.SAYS}
    assert len([seen for seen in hub.asked("tiny/torn", "tokenizer.json") if seen.method == "GET"]) == 1


def test_the_token_goes_to_the_hub_only(results, hub, cdn):
    assert results["tiny/cdn"] == {"text": tiny.SAYS}
    assert {seen.authorization for seen in hub.asked("tiny/cdn")} == {f"Bearer {TOKEN}"}
    assert [seen.authorization for seen in cdn.seen if seen.method == "GET"] == [None]
    assert {seen.authorization for seen in cdn.seen} == {None}


def test_a_full_disk(results):
    failed(results, "tiny/large", "ModelDownloadError", "disk space")
    assert results["large again"] == {"text": tiny.SAYS}


def test_a_hub_in_trouble(results):
    failed(results, "tiny/mute", "ModelDownloadError", "tiny/mute")
    failed(results, "tiny/ill", "ModelDownloadError", "tiny/ill")


def test_the_hub_is_asked_once_for_what_every_correction_wants_to_know(results, hub):
    asked = [seen for seen in hub.asked("tiny/model", "aligner_config.json") if seen.revision == "main"]
    # Once for the template and gate, before the weights; whatever the number of times they are looked at.
    assert len([seen for seen in asked if seen.method == "HEAD"]) == 1


def test_without_the_hub_the_cache_serves(results, hub, client):
    for marks in client.cache.rglob(".no_exist"):
        shutil.rmtree(marks)  # a cache filled with `hf download` has none
    before = len(hub.seen)
    cases = [CASES[0], CASES[1], CASES[2], {"model": "tiny/never"}, {"model": "tiny/never2", "template": "paper"}]
    offline = client(hub.url, cases, HF_HUB_OFFLINE="1")
    assert len(hub.seen) == before
    assert [offline[m] for m in ("tiny/model", "tiny/plain", "tiny/pinned")] == [
        {"text": tiny.SAYS},
        {"text": tiny.SAYS},
        {"text": tiny.OTHER},
    ]
    failed(offline, "tiny/never", "ModelDownloadError", "not in the local cache", "HF_HUB_OFFLINE")
    failed(offline, "tiny/never2", "ModelDownloadError", "not in the local cache", "HF_HUB_OFFLINE")


def test_a_hub_that_is_down(results, client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    down = client(nobody, [CASES[0], CASES[1], {"model": "tiny/never"}])
    assert down["tiny/model"] == down["tiny/plain"] == {"text": tiny.SAYS}
    failed(down, "tiny/never", "ModelDownloadError", "cannot be reached", "HF_ENDPOINT")


def test_a_token_nobody_knows(hub, tmp_path):
    hub.refused_token = "hf_expired"
    refused = Client(tmp_path)(hub.url, [{"model": "tiny/model"}, {"model": "tiny/missing"}], HF_TOKEN="hf_expired")
    failed(refused, "tiny/model", "ModelAccessError", "HF_TOKEN", "401")
    failed(refused, "tiny/missing", "ModelAccessError", "HF_TOKEN")
    assert "hf_expired" not in json.dumps(refused)


def test_a_missing_repository_without_a_token(hub, tmp_path):
    failed(Client(tmp_path)(hub.url, [{"model": "tiny/missing"}]), "tiny/missing", "ModelNotFoundError", "private")
