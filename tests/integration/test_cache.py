"""The cache in a file with several processes at work, one of them killed; and in front of the embedded aligner."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.backends.wrappers.cached import Cache
from tests.integration import tiny

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

# Each process corrects the same hundred answers in an order of its own, and checks every text. It begins when it is told
# to, and ends when it has corrected so many, or when there is a file that says so.
WORKER = """
import pathlib, random, sys
from aligner_integrations import Aligner
from aligner_integrations.backends.base import Completion, FakeBackend
from aligner_integrations.backends.wrappers.cached import Cache

class Counting(FakeBackend):
    fingerprint = "the same weights in all processes"
    made = 0

    def complete(self, requests):
        self.made += len(requests)
        return super().complete(requests)

path, seed, most, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
backend = Counting(lambda prompt: f"<{prompt}>" + "x" * size)
aligner = Aligner(backend=backend, template="{question}|{answer}", cache=Cache(path, max_bytes=2**22))
chance, asked = random.Random(seed), 0
print("begun", flush=True)
sys.stdin.readline()
while asked < most and not pathlib.Path(path + ".end").exists():
    pairs = [(f"q{n}", f"answer {n}") for n in (chance.randrange(100) for _ in range(chance.choice([1, 1, 7])))]
    for (question, answer), done in zip(pairs, aligner.correct_many(pairs), strict=True):
        assert done.text == f"<{question}|{answer}>" + "x" * size, done
        asked += 1
print(backend.made, asked)
"""


def workers(path, seeds, most, size=50):
    """Processes that begin together."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WORKER, str(path)]
    processes = [
        subprocess.Popen(
            [*command, str(seed), str(most), str(size)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT
        )
        for seed in seeds
    ]
    for process in processes:
        assert process.stdout.readline() == "begun\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def finish(process):
    """How many texts it made, and how many it asked for."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not err  # no word of a locked or a broken file either
    return [int(number) for number in out.split()]


def check(path, size=50):
    """The file is whole, and holds nothing but texts that somebody finished."""
    database = sqlite3.connect(path)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        texts = {text for (text,) in database.execute("SELECT text FROM kept")}
    finally:
        database.close()
    assert texts <= {f"<q{n}|answer {n}>" + "x" * size for n in range(100)}
    return texts


def test_four_processes_share_a_file(tmp_path):
    path = tmp_path / "cache.db"
    results = [finish(process) for process in workers(path, range(4), most=4000)]
    assert len(check(path)) == 100
    made, asked = (sum(numbers) for numbers in zip(*results, strict=True))
    assert 100 <= made <= 4 * 100  # at worst each has made each once, before the others had it
    assert asked > 4 * made


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_a_sound_file(tmp_path):
    """Killed at ten moments; of texts of 100 kB less than half fit, so that it is always writing."""
    path, size = tmp_path / "cache.db", 100_000
    (survivor,) = workers(path, [100], 10**9, size)
    try:
        for i in range(10):
            (doomed,) = workers(path, [i], 10**9, size)
            time.sleep(0.05 + 0.037 * i)
            doomed.send_signal(signal.SIGKILL)
            doomed.communicate(timeout=60)
            assert doomed.returncode == -signal.SIGKILL
            check(path, size)
        end = path.with_name("cache.db.end")
        end.touch()
        made, asked = finish(survivor)
        end.unlink()
    finally:
        survivor.kill()
        survivor.communicate()
    assert 100 < made <= asked
    assert 20 < len(check(path, size)) < 50
    assert finish(*workers(path, [1], 10, size))


@pytest.fixture
def model(tmp_path):
    return tiny.write_model(tmp_path / "model", says=tiny.SAYS)


def test_other_weights_in_the_same_folder_are_other_weights(tmp_path, model):
    """What a training writes over an old model must not be answered for by the old one."""
    from aligner_integrations.backends.local import loading as weights
    from aligner_integrations.models import _fingerprints

    cache = Cache(tmp_path / "cache.db")
    first = Aligner(backend=LocalBackend(model), cache=cache, gate=False)
    assert first.correct("q", "a").text == tiny.SAYS
    assert len(cache.store) == 1
    for file in model.iterdir():
        file.unlink()
    tiny.write_model(model, says=tiny.OTHER)
    # What this process has loaded stays, under its own name.
    assert first.correct("q", "a").text == tiny.SAYS
    assert len(cache.store) == 1
    weights.release()
    _fingerprints.clear()  # as in a new process
    second = Aligner(backend=LocalBackend(model), cache=cache, gate=False)
    assert second.correct("q", "a").text == tiny.OTHER
    assert len(cache.store) == 2


@pytest.mark.slow
def test_a_hit_needs_no_weights(tmp_path, model):
    code = """
        import sys
        from aligner_integrations import Aligner
        from aligner_integrations.backends.wrappers.cached import Cache
        aligner = Aligner(sys.argv[1], cache=Cache(sys.argv[2]), gate=False)
        print(aligner.correct("q", "a").text, "torch" in sys.modules)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(model), str(tmp_path / "cache.db")]
    outs = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout for _ in range(2)]
    assert outs == [f"{tiny.SAYS} True\n", f"{tiny.SAYS} False\n"]
