"""Everything at once, and things break: nothing hangs, nothing is mixed up, no wrong text, and no error but ours.

`make test` runs these at a small size; `make stress` at ten times that (`STRESS=10`). Faults are drawn with seeds; which
task meets which is up to the machine.
"""

import asyncio
import contextlib
import gc
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading

import pytest

from aligner_integrations import Aligner, Cache, Resilience
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError
from tests.forks import forked
from tests.integration.fault_server import KEY
from tests.integration.test_staying_up import fault_server
from tests.unit.backends.wrappers.test_cached import damaged
from tests.unit.support import TEMPLATE, mend

pytestmark = [pytest.mark.slow, pytest.mark.integration]

SCALE = int(os.environ.get("STRESS", "1"))
GUARD = 300.0 * SCALE
"""Seconds after which a test that hangs fails."""


@pytest.fixture(autouse=True)
def what_is_loaded_stays():
    """Keep what the test runner has loaded out of garbage collections, which would make the event loop stand still for it.

    Servers do the same before they serve; what the thousands of tasks make is collected as ever.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def aligner_at(server, **options):
    options.setdefault("resilience", Resilience(timeout=3, backoff=0.05, max_backoff=0.5))
    return Aligner.from_endpoint(f"{server}/v1", "m", KEY, TEMPLATE, on_error="keep", **options)


def check(results, *, most_failed):
    """Each is a correction of its own question, corrected or with its answer as it was; only AlignerErrors are reasons."""
    failed = 0
    for i, done in results:
        assert (done.question, done.answer) == (f"q{i}", f"bad {i}.")
        assert done.text == (f"good {i}." if done.outcome == "corrected" else f"bad {i}.")
        assert done.outcome in ("corrected", "failed"), done
        failed += done.outcome == "failed"
    assert failed <= most_failed * len(results), f"{failed} of {len(results)} failed"


async def longest_pause(until):
    """How long the event loop stood still at most, in seconds, while something ran; printed, never asserted."""
    longest, loop = 0.0, asyncio.get_running_loop()
    last = loop.time()
    while not until.done():
        await asyncio.sleep(0.005)
        longest, last = max(longest, loop.time() - last), loop.time()
    return longest


async def test_tasks_that_are_cancelled_at_random_on_a_faulty_server(tmp_path):
    rng, count = random.Random(11), 2_000 * SCALE
    with fault_server() as server:
        aligner = aligner_at(server, cache=Cache(tmp_path / "cache.db"), record=lambda correction: None)

        async def one(i):
            if i % 3:
                return i, await aligner.acorrect(f"q{i}", f"bad {i}.")
            stream = aligner.astream(f"q{i}", f"bad {i}.")
            assert "".join([piece async for piece in stream]) == stream.correction.text
            return i, stream.correction

        tasks = [asyncio.create_task(one(i)) for i in range(count)]
        everything = asyncio.gather(*tasks, return_exceptions=True)
        pause = asyncio.create_task(longest_pause(everything))
        doomed = rng.sample(tasks, count // 5)
        async with asyncio.timeout(GUARD):
            for task in doomed:
                await asyncio.sleep(rng.uniform(0, 0.01))
                task.cancel()
            results = await everything
        sys.stdout.write(f"the event loop stood still for {await pause:.3f} s at most")
        done = [result for result in results if not isinstance(result, BaseException)]
        gone = [result for result in results if isinstance(result, BaseException)]
        # A stream that broke after its first words is an error, whatever `on_error` says.
        assert all(isinstance(error, asyncio.CancelledError | BackendError) for error in gone), gone
        assert sum(isinstance(error, asyncio.CancelledError) for error in gone) <= len(doomed)
        check(done, most_failed=0.05)
        assert (aligner.resilience.slots.held, aligner.resilience.slots.waiting) == (0, 0)
        assert len(aligner.cache.flights) == 0


class Leading(FakeBackend):
    """Its first call waits, and then fails if it is told to."""

    def __init__(self, error=None):
        super().__init__(mend)
        self.fingerprint = ["leading"]
        self.error, self.calls, self.go = error, 0, asyncio.Event()

    async def acomplete(self, requests):
        self.calls += 1
        if self.calls == 1:
            await self.go.wait()
            if self.error is not None:
                return [self.error] * len(requests)
        return self.complete(requests)


@pytest.mark.parametrize("fate", ["fails", "is cancelled"])
async def test_equal_requests_whose_leader_is_lost(tmp_path, fate):
    backend = Leading(BackendError("down", retryable=True) if fate == "fails" else None)
    aligner = Aligner(backend=backend, template=TEMPLATE, cache=Cache(tmp_path / "cache.db"), on_error="keep")
    leader = asyncio.create_task(aligner.acorrect("q", "bad"))
    async with asyncio.timeout(GUARD):
        while not backend.calls:
            await asyncio.sleep(0.001)
        tasks = [asyncio.create_task(aligner.acorrect("q", "bad")) for _ in range(500 * SCALE)]
        threads = [asyncio.create_task(asyncio.to_thread(aligner.correct, "q", "bad")) for _ in range(40)]
        await asyncio.sleep(0.2)
        if fate == "is cancelled":
            leader.cancel()
        backend.go.set()
        results = await asyncio.gather(leader, *tasks, *threads, return_exceptions=True)
    if fate == "is cancelled":
        assert isinstance(results.pop(0), asyncio.CancelledError)
    assert {done.text for done in results} <= {"good", "bad"}
    # Whoever came too late to share the leader's failure is led anew: by one, not by each for itself.
    assert backend.calls <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forks_under_load(tmp_path):
    with fault_server(0.05) as server:
        aligner = aligner_at(server, cache=Cache(tmp_path / "cache.db"))
        stop, numbers, results = threading.Event(), iter(range(10**9)), []

        def busy():
            while not stop.is_set():
                i = next(numbers)
                results.append((i, aligner.correct(f"q{i}", f"bad {i}.")))

        def child(k):
            mine = [(i, aligner.correct(f"q{i}", f"bad {i}.")) for i in range(10**6 * k, 10**6 * k + 5)]

            async def some():
                return await asyncio.gather(*(aligner.acorrect(f"q{i}", f"bad {i}.") for i in range(5)))

            check([*mine, *enumerate(asyncio.run(some()))], most_failed=0.5)
            return True

        threads = [threading.Thread(target=busy) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            for k in range(1, 8 * SCALE + 1):
                assert forked(lambda k=k: child(k))
        finally:
            stop.set()
            for thread in threads:
                thread.join(GUARD)
        assert not any(thread.is_alive() for thread in threads)
        check(results, most_failed=0.05)


async def test_a_peak_at_which_no_thread_can_be_started(tmp_path):
    """What needs a thread at that moment fails, typed; before and after all is well, and nobody waits for ever."""
    aligner = Aligner(
        backend=FakeBackend(mend), template=TEMPLATE, cache=Cache(tmp_path / "cache.db"), on_error="keep",
        accept=lambda *texts: True, record=lambda correction: None, resilience=Resilience(deadline=60),
    )  # fmt: skip

    async def some(start):
        tasks = [aligner.acorrect(f"q{i}", f"bad {i}.") for i in range(start, start + 200 * SCALE)]
        return list(enumerate(await asyncio.gather(*tasks, return_exceptions=True), start))

    async with asyncio.timeout(GUARD):
        before = threading.stack_size()
        check(await some(0), most_failed=0)
        await asyncio.sleep(11)  # so that no idle thread is left
        threading.stack_size(2**46)  # the kernel refuses each thread
        try:
            peak = await some(10_000)
        finally:
            threading.stack_size(before)
        typed = [(i, done) for i, done in peak if not isinstance(done, AlignerError)]
        assert not [done for _, done in typed if isinstance(done, BaseException)]
        check(typed, most_failed=1)
        assert any(done.outcome == "failed" for _, done in typed), "threads could be started all the same"
        check(await some(20_000), most_failed=0)


def test_a_full_disk(tmp_path):
    """The cache cannot be written any more: corrections go on without it, and it is said once."""
    code = f"""
import resource, signal, sys
from aligner_integrations import Aligner, Cache
from aligner_integrations.backends.base import FakeBackend
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
aligner = Aligner(
    backend=FakeBackend(lambda prompt: prompt.upper()), template="{{question}}{{answer}}", cache=Cache({str(tmp_path / "c.db")!r})
)
assert aligner.correct("a", "b").text == "AB"
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for i in range(300):
    text = f"{{i}} " + "some words " * 100
    assert aligner.correct("q", text).text == ("q" + text).upper().strip()
sys.stdout.write("all right")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=GUARD)
    assert (done.returncode, done.stdout) == (0, "all right"), done.stderr[-2000:]
    assert done.stderr.count("cannot be written") == 1


def test_damaged_cache_files(tmp_path):
    backend = FakeBackend(mend)
    backend.fingerprint = ["weights"]

    def aligner(cache):
        return Aligner(backend=backend, template=TEMPLATE, cache=cache)

    path, rng, pairs = tmp_path / "cache.db", random.Random(5), [(f"q{i}", f"bad {i}") for i in range(200)]
    cache = Cache(path)
    aligner(cache).correct_many(pairs)
    cache.close()
    content, opened = path.read_bytes(), 0
    for n in range(400 * SCALE):
        other = tmp_path / f"{n}.db"
        other.write_bytes(damaged(content, rng))
        with contextlib.suppress(ConfigurationError):
            cache = Cache(other)
            opened += 1
            assert [c.text for c in aligner(cache).correct_many(pairs)] == [f"good {i}" for i in range(200)]
            with contextlib.suppress(sqlite3.Error):
                cache.close()
        for file in tmp_path.glob(f"{n}.db*"):
            file.unlink()
    assert opened > 100 * SCALE


async def test_a_hung_server_beside_a_healthy_one():
    """One accepts and never answers, not even which model it has: its callers lose their deadline, and nobody else anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as hung, fault_server(0.0) as healthy:
        url = f"http://127.0.0.1:{hung.getsockname()[1]}/v1"
        rules = {"deadline": 2, "timeout": 1}
        stuck = [
            Aligner.from_endpoint(url, on_error="keep", resilience=Resilience(**rules)),
            Aligner.from_endpoint(url, "m", template=TEMPLATE, on_error="keep", resilience=Resilience(**rules)),
            Aligner.from_chat_model(url, on_error="keep", resilience=Resilience(**rules)),
        ]
        fine, count = aligner_at(healthy), 200 * SCALE

        async def correct(aligner, i):
            return i, await aligner.acorrect(f"q{i}", f"bad {i}.")

        async with asyncio.timeout(GUARD):
            tasks = [correct(aligner, i) for i in range(count) for aligner in (*stuck, fine)]
            everything = asyncio.gather(*tasks, asyncio.to_thread(fine.correct_many, [("q1", "bad 1.")] * 100))
            pause = asyncio.create_task(longest_pause(everything))
            *results, threaded = await everything
        sys.stdout.write(f"the event loop stood still for {await pause:.3f} s at most")
        check(results[3::4], most_failed=0)
        check([(1, done) for done in threaded], most_failed=0)
        assert {done.outcome for k in range(3) for _, done in results[k::4]} == {"failed"}
