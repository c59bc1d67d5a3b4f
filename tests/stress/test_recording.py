"""Processes that record to one place and are killed: nothing that was flushed is lost, nothing is torn, nothing is there twice.

`make test` runs eight processes of 1,000 records and two kills; `make stress` ten times that.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict

import pytest

from aligner_integrations.recording import read_records
from aligner_integrations.recording.records import rotated

pytestmark = [pytest.mark.slow, pytest.mark.integration]

SCALE = int(os.environ.get("STRESS", "1"))
PROCESSES, RECORDS, KILLS = 8, 1_000 * SCALE, 2 * SCALE
GUARD = 120.0 * SCALE

WORKER = """
import os, sys
from aligner_integrations.correction import Correction
from aligner_integrations.recording import Recorder

place, acknowledged, name, first, last = sys.argv[1:]
recorder = Recorder(place, max_bytes=2**20)
file = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for n in range(int(first), int(last)):
    recorder(Correction(f"{name}/{n}", "an answer " * (n % 50), "a correction " * (n % 50), "corrected"))
    if n % 40 == 39 or n == int(last) - 1:
        recorder.flush()
        os.write(file, b"%d\\n" % n)
assert recorder.dropped == 0
"""


class Worker:
    """One of the processes; killed, it begins anew behind what it has flushed."""

    def __init__(self, folder, place, number):
        self.folder, self.place, self.number, self.life, self.flushed = folder, place, number, -1, {}
        self.start()

    def start(self):
        first = self.last() + 1
        self.life += 1
        self.acknowledged = self.folder / f"{self.number}.{self.life}"
        self.begun = first
        command = [
            sys.executable,
            "-c",
            WORKER,
            self.place,
            self.acknowledged,
            f"{self.number}/{self.life}",
            first,
            RECORDS,
        ]
        self.process = subprocess.Popen([str(part) for part in command])

    def last(self):
        """The last record that is flushed for certain."""
        for life in range(self.life, -1, -1):
            file = self.folder / f"{self.number}.{life}"
            if file.exists() and (lines := file.read_text().split()):
                return int(lines[-1])
        return -1

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(GUARD)
        self.note()
        self.start()

    def note(self):
        lines = self.acknowledged.read_text().split() if self.acknowledged.exists() else []
        self.flushed[self.life] = (self.begun, int(lines[-1]) if lines else self.begun - 1)


@pytest.mark.parametrize("name", ["corrections.jsonl", "corrections.db"])
def test_processes_that_are_killed(tmp_path, name):
    rng, place = random.Random(17), tmp_path / "records" / name
    workers = [Worker(tmp_path, place, number) for number in range(PROCESSES)]
    until, killed = time.monotonic() + GUARD, 0
    try:
        while killed < KILLS:
            assert time.monotonic() < until
            progress = sum(worker.last() + 1 for worker in workers)
            alive = [worker for worker in workers if worker.process.poll() is None]
            if progress >= PROCESSES * RECORDS * killed / (KILLS + 1) and alive:
                time.sleep(rng.uniform(0, 0.02))
                worker = rng.choice(alive)
                if worker.process.poll() is None:
                    worker.kill()
                    killed += 1
            assert alive or killed
            time.sleep(0.002)
        for worker in workers:
            assert worker.process.wait(GUARD) == 0
            worker.note()
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    found = list(read_records(place))  # a torn one would be an error
    lives = defaultdict(list)
    for record in found:
        number, life, n = map(int, record.correction.question.split("/"))
        assert record.correction.answer == "an answer " * (n % 50)
        lives[number, life].append(n)
    assert len({record.id for record in found}) == len(found)
    for worker in workers:
        for life, (begun, flushed) in worker.flushed.items():
            numbers = lives[worker.number, life]
            assert numbers == list(range(begun, begun + len(numbers))), "lost in between, twice, or out of order"
            assert begun + len(numbers) > flushed, "what was flushed is lost"
    if name.endswith("jsonl"):
        assert len(rotated(place)) >= 1
    sys.stdout.write(f"{len(found):,} records, {killed} kills, {len(rotated(place))} rotations")
