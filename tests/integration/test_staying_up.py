"""Ten thousand corrections at once through a server that fails one request in five: on an event loop, and on threads."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.remote.loop import the_loop
from aligner_integrations.backends.wrappers.breaker import Breaker
from aligner_integrations.backends.wrappers.resilient import Resilience
from aligner_integrations.errors import BackendError
from tests.integration.fault_server import FAULTS, KEY
from tests.interrupting import interrupted, needs_timer
from tests.unit.support import TEMPLATE, mend

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COUNT = 10_000
DEADLINE = 400.0  # far more than it takes, and less than pytest waits for what hangs


@contextlib.contextmanager
def fault_server(share=0.2):
    """A running server; gives its URL."""
    command = [sys.executable, "-m", "tests.integration.fault_server", str(share)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def stats(server):
    with urllib.request.urlopen(f"{server}/stats", timeout=60) as response:
        return Counter(json.load(response))


def requests(server):
    """How many it has got; how many connections are open changes by itself."""
    return sum(count for name, count in stats(server).items() if name != "open")


def wait_until_closed(server):
    """No connection is left; where the server drips, it may take it a second to notice."""
    until = time.monotonic() + 60
    while stats(server)["open"]:
        assert time.monotonic() < until, "a connection is still open"
        time.sleep(0.05)


def aligner_at(server, **rules):
    """Defaults, but for attempts of five seconds at most: what stalls here stalls for good, and one in twenty does."""
    rules = Resilience(deadline=DEADLINE, timeout=5, **rules)
    return Aligner.from_endpoint(f"{server}/v1", "m", KEY, TEMPLATE, resilience=rules, on_error="keep")


def sockets():
    """How many this process has open."""
    count = 0
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(number.readlink()).startswith("socket:")
    return count


def quiet():
    """How many sockets and threads there are before anything is asked: with those of the loop, which stay."""
    the_loop()
    return sockets(), threading.active_count()


def check(results, seconds, seen, caplog):
    """None is mixed up, hardly any failed, and none tells the key."""
    assert len(results) == COUNT
    failed = [c for c in results if c.outcome == "failed"]
    for i, done in enumerate(results):
        assert done.question == f"q{i}" and done.answer == f"bad {i}."
        assert done.text == (f"bad {i}." if done.outcome == "failed" else f"good {i}.")
    assert len(failed) <= COUNT // 100
    assert all(seen[fault] > COUNT / 100 for fault in FAULTS)
    printed = caplog.text + "".join(c.reason or "" for c in failed) + "".join(map(repr, results[:100]))
    assert "Attempt 1 failed" in printed
    assert KEY not in printed and "secret" not in printed
    return (
        f"{COUNT - len(failed)} of {COUNT} corrected in {seconds:.0f} s, the slowest in "
        f"{max(c.seconds for c in results):.0f} s; the server's faults: {dict(seen)}"
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts sockets")
async def test_ten_thousand_at_once_on_one_event_loop(caplog, capfd):
    caplog.set_level(logging.DEBUG, "aligner_integrations")
    before, threads = quiet()
    with fault_server() as server:
        aligner = aligner_at(server)
        started = time.monotonic()
        results = await asyncio.gather(*(aligner.acorrect(f"q{i}", f"bad {i}.") for i in range(COUNT)))
        seconds = time.monotonic() - started
        summary = check(results, seconds, stats(server), caplog)
        assert (aligner.resilience.slots.held, aligner.resilience.slots.waiting) == (0, 0)
        await aligner.backend.aclose()
        await asyncio.to_thread(wait_until_closed, server)
    assert sockets() <= before
    assert threading.active_count() <= threads + min(32, (os.cpu_count() or 1) + 4)  # those of asyncio.to_thread
    assert KEY not in "".join(capfd.readouterr())
    sys.stdout.write(summary)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts sockets")
def test_ten_thousand_on_fifty_threads(caplog, capfd):
    caplog.set_level(logging.DEBUG, "aligner_integrations")
    before, threads = quiet()
    with fault_server() as server:
        aligner = aligner_at(server)
        results, numbers = [None] * COUNT, itertools.count()

        def work():
            while (i := next(numbers)) < COUNT:
                results[i] = aligner.correct(f"q{i}", f"bad {i}.")

        started = time.monotonic()
        workers = [threading.Thread(target=work, daemon=True) for _ in range(50)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=max(0.0, started + DEADLINE + 60 - time.monotonic()))
        assert not any(worker.is_alive() for worker in workers)
        summary = check(results, time.monotonic() - started, stats(server), caplog)
        assert (aligner.resilience.slots.held, aligner.resilience.slots.waiting) == (0, 0)
        aligner.backend.close()
        wait_until_closed(server)
    assert sockets() <= before
    assert threading.active_count() == threads
    assert KEY not in "".join(capfd.readouterr())
    sys.stdout.write(summary)


async def test_cancelled_corrections_leave_no_connection(capfd):
    """A hundred against a server that only fails: some wait for a turn, some for the server, some to try again."""
    with fault_server(1.0) as server:
        before, _ = quiet()
        aligner = aligner_at(server, concurrency=40, breaker=False)
        tasks = [asyncio.create_task(aligner.acorrect(f"q{i}", f"bad {i}.")) for i in range(100)]
        streams = [aligner.astream(f"q{i}", f"bad {i}.") for i in range(5)]
        tasks += [asyncio.create_task(anext(stream)) for stream in streams]
        async with asyncio.timeout(60):
            while sum(stats_ := (await asyncio.to_thread(stats, server)).values()) < 60 or not stats_:
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 50
        assert (aligner.resilience.slots.held, aligner.resilience.slots.waiting) == (0, 0)
        await aligner.backend.aclose()
        await asyncio.to_thread(wait_until_closed, server)
        assert sockets() <= before


@needs_timer
def test_an_interrupted_thread_leaves_no_connection():
    with fault_server(1.0) as server:
        before, threads = quiet()
        aligner = aligner_at(server, breaker=False, retries=1000, backoff=0.01)
        with interrupted(0.5):
            aligner.correct("q", "bad")  # fails and tries again, until it meets a stall
        with interrupted(0.5):
            list(aligner.stream("q", "bad"))
        assert (aligner.resilience.slots.held, threading.active_count()) == (0, threads)
        aligner.backend.close()
        wait_until_closed(server)
        assert sockets() <= before


async def test_the_breaker_opens_and_heals_and_the_fallback_answers():
    with fault_server(1.0) as server:
        aligner = aligner_at(server, retries=0, breaker=Breaker())
        failed = await asyncio.gather(*(aligner.acorrect(f"q{i}", "It is bad.") for i in range(40)))
        assert {c.outcome for c in failed} == {"failed"} and {c.text for c in failed} == {"It is bad."}
        assert aligner.resilience.breaker.state == "open"
        asked = requests(server)
        refused = await aligner.acorrect("q", "It is bad.")
        assert refused.outcome == "failed" and "CircuitOpenError" in refused.reason
        helped = Aligner(
            backend=aligner.backend,
            template=TEMPLATE,
            resilience=Resilience(breaker=aligner.resilience.breaker, fallbacks=[FakeBackend(mend)]),
        )
        done = await helped.acorrect("q", "It is bad.")
        assert (done.text, done.reason) == ("It is good.", "fallback")
        assert requests(server) == asked
    with fault_server(0.0) as server:  # up again, on another port
        healed = aligner_at(server)
        healed.resilience.breaker = aligner.resilience.breaker
        with pytest.raises(BackendError):
            await Aligner(backend=healed.backend, template=TEMPLATE, resilience=healed.resilience).acorrect("q", "a")
        healed.resilience.breaker.pause = 0.01  # what is left of half a minute
        await asyncio.sleep(0.02)
        assert healed.correct("q", "It is bad.").text == "It is good."
        assert aligner.resilience.breaker.state == "closed"


def test_no_frame_of_an_error_shows_the_key():
    with fault_server(1.0) as server:
        aligner = Aligner.from_endpoint(
            f"{server}/v1", "m", KEY, TEMPLATE, resilience=Resilience(timeout=1, backoff=0.01)
        )
        for i in range(8):
            with pytest.raises(BackendError) as caught:
                aligner.correct(f"q{i}", "It is bad.")
            shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            assert KEY not in "".join(shown.format())
