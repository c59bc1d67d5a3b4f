"""How long a correction takes that the cache knows already: in memory and in a file, for threads and event loops.

What lives elsewhere: the cache (`backends/wrappers/cached.py`), and the command (`cli/bench.py`).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score
from aligner_integrations.backends.wrappers.cached import Cache
from aligner_integrations.errors import AlignerError

_ANSWER = "It is bad, and so on. " * 20


class _Gated(FakeBackend):
    """Has a gate, so that a score and a completion are looked up, as for the embedded aligner."""

    gate = 1.0
    can_score = True

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        return [Score((), -1.0, -1.0, -1.0, 2.0) for _ in requests]


def bench_hits(*, rounds: int = 200) -> dict[str, float]:
    """Time corrections that are found in a cache.

    Args:
        rounds: How often the answer, of 120 words, is asked for in each way.

    Returns:
        Name of a way -> median seconds of a correction.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for where, path in (("memory", None), ("file", Path(folder) / "cache.db")):
            cache = Cache(path)
            aligner = Aligner(
                backend=_Gated(lambda prompt: prompt.replace("bad", "good")), template="{question}{answer}", cache=cache
            )
            aligner.correct("", _ANSWER)  # not known before
            found[f"correct, {where}"] = _correct(aligner, rounds)
            found[f"acorrect, {where}"] = asyncio.run(_acorrect(aligner, rounds))
            cache.close()
    return found


def _correct(aligner: Aligner, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        aligner.correct("", _ANSWER)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


async def _acorrect(aligner: Aligner, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        await aligner.acorrect("", _ANSWER)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
