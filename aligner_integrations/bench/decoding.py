"""How fast an aligner corrects: several ways of decoding over the same answers, one at a time.

Where two ways part, it is measured whether the model's two best choices were a tie there, which rounding decides.

What lives elsewhere: which ways there are to compare (`cli/bench.py`), corrections that are made hard on purpose
(`scripted.py`), many callers at once (`callers.py`), whether the texts are any good (`evaluation/quality.py`).
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_integrations.backends.encoding import encode_completion, encode_prompt
from aligner_integrations.backends.local.backend import LocalBackend
from aligner_integrations.errors import ConfigurationError, require

with require("local", "Measuring decoding needs {missing}", "torch"):
    import torch

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner


TIE = 1e-4
"""Two float32 logits that are no further apart than this may swap when numbers are summed in another order."""


@dataclass(frozen=True, slots=True)
class Case:
    """An answer to time.

    Attributes:
        kind: Name of the set it belongs to.
        question: The question.
        answer: The answer to correct.
    """

    kind: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Speed:
    """One way of decoding on the cases of one kind.

    Attributes:
        rows: Number of rows.
        median: Median time of one correction, in seconds.
        total: Time of all of them, in seconds; of each row the median of its repetitions.
        speedup: Total of the reference divided by this one's.
        row_speedup: Median over the rows of the reference's time divided by this one's.
        same: Rows whose text is that of the reference.
        kept: Rows whose answer came back as it was.
    """

    rows: int
    median: float
    total: float
    speedup: float
    row_speedup: float
    same: int
    kept: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A correction that is not the reference's.

    Attributes:
        way: The way of decoding.
        number: Number of the case.
        expected: The reference's text.
        text: Its text.
        gap: How far apart the model's logits are where the two part; None if that is not known. See `TIE`.
    """

    way: str
    number: int
    expected: str
    text: str
    gap: float | None


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """What `bench` measured.

    Attributes:
        reference: The way all others are compared with.
        kinds: Kind of row -> way of decoding -> its speed.
        differences: Corrections that are not the reference's.
    """

    reference: str
    kinds: dict[str, dict[str, Speed]]
    differences: list[Difference]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line for each kind and way."""
        lines = [["", "seconds a text", "seconds", "times faster", "row by row", "same text", "kept"]]
        for kind, ways in self.kinds.items():
            for way, speed in ways.items():
                share = [f"{count} of {speed.rows}" for count in (speed.same, speed.kept)]
                faster = [f"{speed.speedup:.2f}", f"{speed.row_speedup:.2f}"]
                lines.append([f"{kind}: {way}", f"{speed.median:.3f}", f"{speed.total:.1f}", *faster, *share])
        return lines

    def ahead(self, way: str, others: Sequence[str]) -> dict[str, float]:
        """Return, kind by kind, how many times as fast a way is as the fastest of others."""
        return {
            kind: min(by_way[name].total for name in others) / by_way[way].total for kind, by_way in self.kinds.items()
        }

    def plot(self, path: Path) -> None:
        """Draw how many times faster each way is, kind by kind, as a PNG, SVG or PDF.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        with require("evaluate", "A plot needs {missing}", "matplotlib"):
            from matplotlib.figure import Figure
        ways = list(next(iter(self.kinds.values())))
        figure = Figure(figsize=(7, 3), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        for number, way in enumerate(ways):
            places = [i + 0.8 * (number - (len(ways) - 1) / 2) / len(ways) for i in range(len(self.kinds))]
            bars = axes.bar(
                places, [by_way[way].speedup for by_way in self.kinds.values()], 0.75 / len(ways), label=way
            )
            axes.bar_label(bars, fmt="%.1f", fontsize=7)
        axes.set_xticks(range(len(self.kinds)), list(self.kinds))
        axes.set_ylabel(f"times faster than {self.reference}")
        axes.legend(fontsize=8)
        figure.savefig(path)


def bench(
    ways: Mapping[str, Aligner],
    cases: Sequence[Case],
    *,
    repeats: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> SpeedReport:
    """Time corrections one by one, each case in every way before the next one, so that a busy machine slows all alike.

    Args:
        ways: Name of a way of decoding -> an aligner that works like that. The first is the reference.
        cases: What to correct.
        repeats: How often each case is corrected in each way.
        on_progress: Called with the number of corrections done.

    Raises:
        ConfigurationError: There are no cases or no ways.
        AlignerError: An aligner raised; give those that shall go on `on_error="keep"`.
    """
    if not cases or not ways:
        raise ConfigurationError("A benchmark needs answers and at least one way to correct them.")
    for aligner in ways.values():
        aligner.load()
        aligner.correct(cases[0].question, cases[0].answer)  # the first one warms up
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    texts: dict[str, list[str]] = {name: [] for name in names}
    done = 0
    for number, case in enumerate(cases):
        times: dict[str, list[float]] = {name: [] for name in names}
        for repeat in range(repeats):
            # Whoever comes first finds other caches than the next one, so all take turns at it.
            first = (number + repeat) % len(names)
            for name in names[first:] + names[:first]:
                forget(ways[name])
                started = time.perf_counter()
                correction = ways[name].correct(case.question, case.answer)
                times[name].append(time.perf_counter() - started)
                if repeat == 0:
                    texts[name].append(correction.text)
                done += 1
                if on_progress is not None:
                    on_progress(done)
        for name in names:
            seconds[name].append(statistics.median(times[name]))
    reference = names[0]
    kinds: dict[str, dict[str, Speed]] = {}
    for kind in dict.fromkeys(case.kind for case in cases):
        chosen = [i for i, case in enumerate(cases) if case.kind == kind]
        plain = [seconds[reference][i] for i in chosen]
        kinds[kind] = {}
        for name in names:
            own = [seconds[name][i] for i in chosen]
            kinds[kind][name] = Speed(
                len(chosen),
                statistics.median(own),
                sum(own),
                sum(plain) / sum(own),
                statistics.median(a / b for a, b in zip(plain, own, strict=True)),
                sum(texts[name][i] == texts[reference][i] for i in chosen),
                sum(texts[name][i] == cases[i].answer for i in chosen),
            )
    differences = []
    for name in names:
        for i, case in enumerate(cases):
            expected, text = texts[reference][i], texts[name][i]
            if text != expected:
                gap = gap_where_they_part(ways[reference], case.question, case.answer, expected, text)
                differences.append(Difference(name, i, expected, text, gap))
    return SpeedReport(reference, kinds, differences)


def forget(aligner: Aligner) -> None:
    """Let a model here forget the texts it has read: another way, or the time before, may have corrected this answer."""
    aligner.backend.forget()


def take_turns(
    one: Aligner, other: Aligner, cases: Sequence[Case], measure: Callable[[Aligner, Case], float]
) -> tuple[float, float]:
    """Return the median seconds of two aligners over the same cases; they take turns at being the first."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number, case in enumerate(cases):
        for which in (0, 1) if number % 2 else (1, 0):
            aligner = (one, other)[which]
            forget(aligner)
            seconds[which].append(measure(aligner, case))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def gap_where_they_part(aligner: Aligner, question: str, answer: str, first: str, second: str) -> float | None:
    """Return how far apart the model's logits are for the two tokens with which two corrections part.

    The texts are encoded anew: where the model spelled one with other tokens, the distance is that of tokens it did not
    choose, and larger than the one that decided.

    Args:
        aligner: A local one.
        question: The question.
        answer: The answer that was corrected.
        first: One correction.
        second: The other one.

    Returns:
        The distance in logits; None if the aligner is not local, or the texts are the same tokens.
    """
    if not isinstance(aligner.backend, LocalBackend):
        return None
    weights, template = aligner.backend.weights, aligner.template
    one, other = (
        [*encode_completion(weights.tokenizer, template.completion_prefix, text), weights.stop_ids[0]]
        for text in (first, second)
    )
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if same is None:
        return None
    prompt = encode_prompt(weights.tokenizer, template.render(question, answer))
    ids = torch.tensor([prompt + one[:same]], device=weights.model.device)
    with weights.lock, torch.inference_mode():
        logits = weights.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
    return abs(float(logits[one[same]] - logits[other[same]]))
