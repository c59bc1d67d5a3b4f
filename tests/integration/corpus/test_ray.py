"""A corpus corrected by a Ray cluster: the bytes of one process, whoever dies."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aligner_integrations import Aligner
from aligner_integrations.corpus import RayEngine, correct_corpus
from aligner_integrations.errors import BackendError, ConfigurationError, ModelNotFoundError
from tests.integration.corpus.workers import ThreadsBackend, telling_aligner
from tests.unit.corpus.test_run import answers, rows_of, write
from tests.unit.support import TEMPLATE

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'aligner-integrations[ray]'")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    # Ray's own, of what it will do one day with GPUs that it was not asked for, and of files it leaves to the system.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"),
]

ROWS = [{"question": f"q{i}", "answer": f"bad {i} {'word ' * (i % 7)}"} for i in range(60)]
SHARD = 6


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs, all of which the workers take."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", ROWS)


@pytest.fixture
def undisturbed(source, tmp_path):
    out = tmp_path / "undisturbed.jsonl"
    correct_corpus(source, out, telling_aligner(tmp_path / "other"), shard_rows=SHARD)
    return out.read_bytes()


def asked_of(folder):
    """The answers that were asked, by the process that was."""
    return {int(path.name): answers(path) for path in folder.iterdir()} if folder.exists() else {}


def test_two_workers_of_which_one_is_killed(cluster, source, tmp_path, undisturbed):
    out, folder = tmp_path / "out.jsonl", tmp_path / "asked"
    killed = []

    def kill():
        while not killed:
            busy = {pid: said for pid, said in asked_of(folder).items() if len(said) > SHARD}
            if len(asked_of(folder)) == 2 and busy:
                killed.extend(busy)
                os.kill(killed[0], signal.SIGKILL)
            threading.Event().wait(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    aligner = telling_aligner(folder, 0.02, together=2)
    summary = correct_corpus(source, out, aligner, shard_rows=SHARD, engine=RayEngine(workers=2))
    thread.join()
    assert out.read_bytes() == undisturbed and summary.rows == len(ROWS)
    asked = asked_of(folder)
    assert len(asked) >= 2 and os.getpid() not in asked
    assert sum(map(len, asked.values())) - len(ROWS) <= SHARD


def test_what_is_done_is_not_asked_again(cluster, source, tmp_path, undisturbed):
    out, folder = tmp_path / "out.jsonl", tmp_path / "asked"
    for part in ((1, 2), (2, 2)):
        correct_corpus(source, out, telling_aligner(folder), shard_rows=SHARD, part=part, engine=RayEngine(workers=1))
    assert out.read_bytes() == undisturbed
    assert sum(map(len, asked_of(folder).values())) == len(ROWS)


def test_the_pool_grows_while_shards_wait(cluster, source, tmp_path, undisturbed):
    out, folder = tmp_path / "out.jsonl", tmp_path / "asked"
    aligner = telling_aligner(folder, together=2)
    correct_corpus(source, out, aligner, shard_rows=SHARD, engine=RayEngine(workers=(1, 2)))
    assert out.read_bytes() == undisturbed and len(asked_of(folder)) == 2


def test_an_aligner_that_no_worker_can_load(cluster, source, tmp_path):
    with pytest.raises(ModelNotFoundError, match="there is no such model"):
        correct_corpus(
            source, tmp_path / "out.jsonl", telling_aligner(tmp_path / "asked", missing=True), engine=RayEngine()
        )


def test_a_shard_that_ends_each_worker(cluster, source, tmp_path):
    aligner = telling_aligner(tmp_path / "asked", ends_at="bad 20 ")
    with pytest.raises(BackendError, match="2 workers died over shard 3"):
        correct_corpus(source, tmp_path / "out.jsonl", aligner, shard_rows=SHARD, engine=RayEngine(workers=1, tries=2))


def test_a_worker_that_nobody_can_place(cluster, source, tmp_path):
    until = time.monotonic() + 120  # what workers of the test before had is free some time after their end
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    engine = RayEngine(workers=1, gpus=1, patience=1)
    with pytest.raises(BackendError, match="each needs 1 CPUs and 1 GPUs, and the cluster has 2 CPUs free"):
        correct_corpus(source, tmp_path / "out.jsonl", telling_aligner(tmp_path / "asked"), engine=engine)


@pytest.mark.parametrize(("cpus", "threads"), [(None, 2), (1, 1)])
def test_workers_sum_up_with_as_many_threads_as_this_process(cluster, source, tmp_path, cpus, threads):
    """Unless they are told to take another number of CPUs."""
    out, aligner = tmp_path / "out.jsonl", Aligner(backend=ThreadsBackend(), template=TEMPLATE)
    correct_corpus(source, out, aligner, engine=RayEngine(workers=1, cpus=cpus))
    assert {row["correction"] for row in rows_of(out)} == {f"{threads} threads"}


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": (3, 2)}, {"cpus": -1}, {"tries": 0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ConfigurationError):
        RayEngine(**options)


# Else it hangs on whether an earlier test, or somebody at this machine, has made Ray ask for a token.
ACCESS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def second_cluster(folder):
    """A head of its own, as a process that is ended by its id."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2", "--port=0"]
    command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
    environment = {**os.environ, **ACCESS, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        for line in process.stdout:
            if "--address=" in line:
                yield line.partition("--address=")[2].strip(" '\n")
                break
        else:
            raise RuntimeError("the cluster did not start")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def test_by_address(source, tmp_path, undisturbed):
    """In a process of its own, because one process is on one cluster at a time."""
    short = Path("/tmp") / f"ray{os.getpid()}"  # Ray's sockets need short paths
    with second_cluster(short) as address:
        code = f"""
from aligner_integrations.corpus import RayEngine, correct_corpus
from tests.integration.corpus.workers import telling_aligner
engine = RayEngine({address!r}, workers=2)
correct_corpus({str(source)!r}, {str(tmp_path / "out.jsonl")!r}, telling_aligner({str(tmp_path / "asked")!r}), shard_rows={SHARD}, engine=engine)
"""
        root = Path(__file__).parents[3]
        command, environment = [sys.executable, "-c", code], {**os.environ, **ACCESS}
        subprocess.run(command, check=True, cwd=root, env=environment, timeout=300)
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed
    assert len(rows_of(tmp_path / "out.jsonl")) == len(ROWS)
