"""How many corrections a second one local model gives to many callers: one after another, and in shared batches."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligner_integrations.bench.decoding import Case, forget, take_turns
from aligner_integrations.errors import ConfigurationError

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner


@dataclass(frozen=True, slots=True)
class Throughput:
    """One way of serving callers.

    Attributes:
        per_second: Corrections a second, the median of the repetitions.
        speedup: That divided by the first way's.
        same: How many texts are those of the first way.
    """

    per_second: float
    speedup: float
    same: int


@dataclass(frozen=True, slots=True)
class CallersReport:
    """What `bench_callers` measured.

    Attributes:
        cases: Number of corrections in each way.
        callers: Number of callers, and of answers in a list.
        ways: Name of a way -> its throughput.
        alone: Median time of one correction of a single caller, in seconds: without and with shared batches.
    """

    cases: int
    callers: int
    ways: dict[str, Throughput]
    alone: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells."""
        lines = [["", "texts a second", "times faster", "same text"]]
        for way, found in self.ways.items():
            same = f"{found.same} of {self.cases}"
            lines.append([way, f"{found.per_second:.2f}", f"{found.speedup:.2f}", same])
        return lines


def bench_callers(
    single: Aligner,
    shared: Aligner,
    cases: Sequence[Case],
    *,
    callers: int = 32,
    repeats: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> CallersReport:
    """Correct answers for many threads at once: behind a lock, in shared batches, and as lists.

    Args:
        single: An aligner that corrects one answer at a time.
        shared: The same with shared batches.
        cases: What to correct.
        callers: Threads at once, and answers in a list.
        repeats: How often.
        on_progress: Called with the number of corrections done, of `4 * repeats * len(cases)`.

    Raises:
        ConfigurationError: There are no cases.
    """
    if not cases:
        raise ConfigurationError("A benchmark needs answers.")
    lock = threading.Lock()

    def locked(case: Case) -> str:
        with lock:
            return single.correct(case.question, case.answer).text

    def threads(correct: Callable[[Case], str]) -> list[str]:
        with ThreadPoolExecutor(callers) as pool:
            return list(pool.map(correct, cases))

    def lists() -> list[str]:
        texts: list[str] = []
        for start in range(0, len(cases), callers):
            part = cases[start : start + callers]
            texts += [one.text for one in shared.correct_many([(case.question, case.answer) for case in part])]
        return texts

    ways: dict[str, Callable[[], list[str]]] = {
        "one at a time": lambda: [single.correct(case.question, case.answer).text for case in cases],
        f"{callers} callers, a lock": lambda: threads(locked),
        f"{callers} callers": lambda: threads(lambda case: shared.correct(case.question, case.answer).text),
        f"lists of {callers}": lists,
    }
    for aligner in (single, shared):
        aligner.load()
        aligner.correct(cases[0].question, cases[0].answer)  # the first one warms up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    done = 0
    for _ in range(repeats):
        for name, run in ways.items():
            forget(single)
            started = time.perf_counter()
            texts[name] = run()
            seconds[name].append(time.perf_counter() - started)
            done += len(cases)
            if on_progress is not None:
                on_progress(done)
    rates = {name: len(cases) / statistics.median(times) for name, times in seconds.items()}
    first = next(iter(ways))
    found = {
        name: Throughput(rate, rate / rates[first], sum(a == b for a, b in zip(texts[name], texts[first], strict=True)))
        for name, rate in rates.items()
    }
    return CallersReport(len(cases), callers, found, take_turns(single, shared, cases[:callers], _alone))


def _alone(aligner: Aligner, case: Case) -> float:
    """Seconds that a caller waits who is alone."""
    started = time.perf_counter()
    aligner.correct(case.question, case.answer)
    return time.perf_counter() - started
