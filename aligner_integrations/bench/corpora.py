"""What `aligner corpus` adds to the time of a server, how much memory it takes, and what kills cost it.

What lives elsewhere: the server (`loopback.py`), and what happens at 10^8 rows (`corpus_simulation.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aligner_integrations.bench.loopback import TEMPLATE, serving
from aligner_integrations.corpus import correct_corpus
from aligner_integrations.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner
    from aligner_integrations.bench.decoding import Case

_LOOK = 0.02
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a corpus costs beside its server.

    Attributes:
        rows: Rows.
        least: Seconds that the server takes at least: its time of an answer, so many at once.
        bare: Seconds of a bare client that only sends the same requests and reads the answers, so many at once.
        corpus: Seconds of `aligner corpus`, without the start of its process.
        over: By how much that is more than the bare client's, as a share.
        cpu: Microseconds of processor time a row: of the bare client, and of `aligner corpus` without its start.
        memory: Median of its memory in each quarter of the run, in MB.
    """

    rows: int
    least: float
    bare: float
    corpus: float
    over: float
    cpu: tuple[float, float]
    memory: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)


def bench_overhead(rows: int = 20_000, *, seconds: float = 0.005, at_once: int = 16) -> Overhead:
    """Correct a corpus through a server that takes a set time for each answer.

    Args:
        rows: Rows.
        seconds: Time of an answer.
        at_once: Answers at once.
    """
    with TemporaryDirectory() as name, serving(seconds, at_once) as url:
        source = write_rows(Path(name) / "in.jsonl", rows)
        begun = time.process_time()
        bare = asyncio.run(_bare(url, rows, at_once))
        bare_cpu = time.process_time() - begun
        start_cpu = _cpu_of(start(write_rows(Path(name) / "one.jsonl", 1), Path(name) / "one.out.jsonl", url))
        before = _children()
        process = start(source, Path(name) / "out.jsonl", url, "--at-once", str(at_once), "--json")
        memory, said = _watched(process)
        took = float(json.loads(said)["seconds"])
        # Of what comes before, imports and the like, nothing is counted.
        memory = [one for one in memory if one[0] >= memory[-1][0] - took]
        quarters = [memory[i * len(memory) // 4 : (i + 1) * len(memory) // 4] for i in range(4)]
        medians = [round(statistics.median(size for _, size in quarter), 1) for quarter in quarters]
        cpu = _children() - before - start_cpu
        each = (1e6 * bare_cpu / rows, 1e6 * cpu / rows)
        return Overhead(rows, rows * seconds / at_once, bare, took, took / bare - 1, each, medians)


@dataclass(frozen=True, slots=True)
class Kills:
    """What kills cost.

    Attributes:
        kills: How many processes were killed.
        workers: How many of them were workers of a cluster, whose run goes on without them.
        same: Whether the output is, to the byte, that of an undisturbed run.
        again: Rows that were asked more than once, in all.
        most: Rows of a shard.
    """

    kills: int
    workers: int
    same: bool
    again: int
    most: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)


def bench_kills(
    rows: int = 4_000, *, kills: int = 20, shard_rows: int = 100, seed: int = 0, options: Sequence[str] = ()
) -> Kills:
    """Kill `aligner corpus` or one of its workers at random moments, start what died again, and compare what comes out.

    Args:
        rows: Rows.
        kills: How often.
        shard_rows: Rows of a shard.
        seed: Which moments, and which process.
        options: Further options of the command, such as those of another engine.
    """
    rng, seconds, at_once = random.Random(seed), 0.005, 16
    with TemporaryDirectory() as name, serving(seconds, at_once) as url:
        folder = Path(name)
        source = write_rows(folder / "in.jsonl", rows)
        more = ["--shard-rows", str(shard_rows), "--at-once", str(at_once), *options]
        _finished(start(source, folder / "undisturbed.jsonl", url, *more))
        before = _asked(url)
        done = workers = 0
        process = None
        for left in range(kills, 0, -1):
            if process is None:
                process = start(source, folder / "out.jsonl", url, *more)
            # So that all kills find something to do, however long a start takes.
            wanted = done + rng.randint(1, max(1, 2 * (rows - done) // (left + 1)))
            while process.poll() is None and _asked(url)["asked"] - before["asked"] < wanted:
                time.sleep(0.002)
            victim = rng.choice([process.pid, *_workers(process.pid)])
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            if victim == process.pid or process.poll() is not None:
                process.communicate()
                process = None
            else:
                workers += 1
            done = min(rows - 1, _asked(url)["asked"] - before["asked"])
        _finished(process or start(source, folder / "out.jsonl", url, *more))
        same = (folder / "out.jsonl").read_bytes() == (folder / "undisturbed.jsonl").read_bytes()
        return Kills(kills, workers, same, _asked(url)["asked"] - before["asked"] - rows, shard_rows)


@dataclass(frozen=True, slots=True)
class Rates:
    """A corpus against lists of 32, with the same aligner.

    Attributes:
        rows: Rows.
        lists: Rows a second of `correct_many` in lists of 32.
        corpus: Rows a second of a corpus.
        same: Texts that are the same.
    """

    rows: int
    lists: float
    corpus: float
    same: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)


def bench_lists(aligner: Aligner, cases: Sequence[Case], *, on_progress: Callable[[int], None] | None = None) -> Rates:
    """Correct answers in lists of 32 and as a corpus, in turns of a part each, so that a busy machine slows both alike.

    Args:
        aligner: What corrects. It forgets what it has read in between.
        cases: What to correct.
        on_progress: Called with the number of corrections done, of twice as many as there are cases.

    Raises:
        ConfigurationError: There are no cases.
    """
    if not cases:
        raise ConfigurationError("A benchmark needs answers.")
    from aligner_integrations.bench.decoding import forget

    aligner.load()
    aligner.correct(cases[0].question, cases[0].answer)  # the first one warms up
    seconds, texts = [0.0, 0.0], ([], [])  # type: tuple[list[float], tuple[list[str], list[str]]]
    done = 0
    with TemporaryDirectory() as name:
        parts = [cases[i : i + 128] for i in range(0, len(cases), 128)]
        for number, part in enumerate(parts):
            for which in (0, 1) if number % 2 else (1, 0):
                forget(aligner)
                started = time.perf_counter()
                if which == 0:
                    for i in range(0, len(part), 32):
                        pairs = [(case.question, case.answer) for case in part[i : i + 32]]
                        texts[0].extend(one.text for one in aligner.correct_many(pairs))
                else:
                    texts[1].extend(_as_corpus(aligner, part, Path(name) / str(number)))
                seconds[which] += time.perf_counter() - started
                done += len(part)
                if on_progress is not None:
                    on_progress(done)
    same = sum(a == b for a, b in zip(*texts, strict=True))
    return Rates(len(cases), len(cases) / seconds[0], len(cases) / seconds[1], same)


def _as_corpus(aligner: Aligner, part: Sequence[Case], folder: Path) -> Iterable[str]:
    folder.mkdir()
    lines = [json.dumps({"question": case.question, "answer": case.answer}) for case in part]
    (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    correct_corpus(folder / "in.jsonl", folder / "out.jsonl", aligner)
    text = (folder / "out.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["correction"] for line in text.splitlines()]


# Processes ------------------------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: int) -> Path:
    """Write a corpus whose answers are each other's like in length, and different."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {"id": number, "question": f"What is {number}?", "answer": f"It is a bad number, {number} of many."}
            file.write(json.dumps(row) + "\n")
    return path


def start(source: Path, out: Path, url: str, *options: str) -> subprocess.Popen[bytes]:
    """Start `aligner corpus` as a process of its own."""
    command = [sys.executable, "-m", "aligner_integrations", "corpus", str(source), str(out)]
    command += ["--endpoint", f"{url}/v1", "--template", TEMPLATE, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603 - this package itself


def _finished(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    _raise_if_failed(process, said)


def _raise_if_failed(process: subprocess.Popen[bytes], said: bytes) -> None:
    if process.returncode:
        raise BackendError(f"aligner corpus ended with {process.returncode}: {said.decode(errors='replace')[-500:]}")


def _workers(driver: int) -> list[int]:
    """The processes of Ray's workers below a process; none where there is no /proc."""
    parents: dict[int, int] = {}
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if (place / "cmdline").read_bytes().startswith(b"ray::Worker"):
                found.append(int(place.name))

    def below(process: int) -> bool:
        while process > 1 and process != driver:
            process = parents.get(process, 0)
        return process == driver

    return sorted(filter(below, found))


def _children() -> float:
    """Processor time of all processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _cpu_of(process: subprocess.Popen[bytes]) -> float:
    before = _children()
    _finished(process)
    return _children() - before


def _asked(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/asked", timeout=10) as response:  # noqa: S310 - our own server
        found: dict[str, int] = json.load(response)
    return found


async def _bare(url: str, rows: int, at_once: int) -> float:
    """Seconds in which a client sends all requests and reads the answers, and does nothing else."""
    import aiohttp

    turns = iter(range(rows))

    async def take_turns(session: aiohttp.ClientSession) -> None:
        for number in turns:
            answer = f"It is a bad number, {number} of many."
            prompt = TEMPLATE.format(question=f"What is {number}?", answer=answer)
            body = {"model": "loopback", "prompt": prompt, "max_tokens": 320, "temperature": 0}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                await response.json()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(take_turns(session) for _ in range(at_once)))
        return time.perf_counter() - started


def _watched(process: subprocess.Popen[bytes]) -> tuple[list[tuple[float, float]], bytes]:
    """Return (time, memory in MB) of a process while it runs, and what it said."""
    seen: list[tuple[float, float]] = []
    said: list[bytes] = []
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    reader = threading.Thread(target=lambda: said.append(process.communicate()[0]))
    reader.start()
    path = Path(f"/proc/{process.pid}/statm")
    while reader.is_alive():
        with suppress(OSError, IndexError):
            seen.append((time.perf_counter(), int(path.read_text().split()[1]) * page))
        reader.join(_LOOK)
    _raise_if_failed(process, b"")
    return [one for one in seen if one[1]], said[0]
