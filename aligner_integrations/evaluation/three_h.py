"""The paper's Table 1 for one's own models: several upstreams x question sets x a judge. `aligner evaluate three-h`.

Each cell is a win rate (`win_rate.py`): how much more often the judge prefers the correction than the answer of that upstream to that
set, with its interval, and the loss rate beside it. The sets are named as the paper names them (section 5); their rows come from
files, or from the data sets on the Hub.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aligner_integrations._version import __version__
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation import win_rate
from aligner_integrations.evaluation.asked import Kept, Model
from aligner_integrations.evaluation.html import Example, Page, Table
from aligner_integrations.evaluation.html.charts import Chart, bars
from aligner_integrations.evaluation.intervals import Interval, WinRate
from aligner_integrations.evaluation.judge import Wording
from aligner_integrations.evaluation.pairs import Pairs, make_pairs, read_pairs
from aligner_integrations.evaluation.win_rate import WinRateReport
from aligner_integrations.triples import read_records

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

SEED = 42
"""Of the samples, as in the paper: `random.seed(42); random.sample(...)`."""
_MOST_EXAMPLES = 40
"""Rows of each cell that are on the page."""


@dataclass(frozen=True, slots=True)
class Known:
    """A question set of the paper.

    Attributes:
        title: Its name in the paper.
        aspects: What it is judged for there.
        hub: Its data set on the Hub, and its configuration there; checked when it is read, not here.
        split: The split that the paper takes.
        columns: Name here -> name there.
        sample: How many of its questions the paper takes; None: all.
    """

    title: str
    aspects: tuple[str, ...]
    hub: tuple[str, str | None]
    split: str
    columns: Mapping[str, str] = field(default_factory=dict)
    sample: int | None = None


SETS: dict[str, Known] = {
    "e-dialogue": Known(
        "E-Dialogue", ("empathic",), ("facebook/empathetic_dialogues", None), "test", {"question": "utterance"}
    ),
    "dialogsum": Known("DialogSum", ("summary",), ("knkarthick/dialogsum", None), "test", {"question": "dialogue"}),
    "beavertails": Known(
        "BeaverTails",
        ("helpful", "harmless"),
        ("PKU-Alignment/BeaverTails-Evaluation", None),
        "test",
        {"question": "prompt"},
    ),
    "harmfulqa": Known("HarmfulQA", ("helpful", "harmless"), ("declare-lab/HarmfulQA", None), "train", sample=700),
    "truthfulqa": Known(
        "TruthfulQA",
        ("honest",),
        ("truthfulqa/truthful_qa", "generation"),
        "validation",
        {"correct": "correct_answers", "incorrect": "incorrect_answers"},
    ),
}


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions, and what their answers are judged for.

    Attributes:
        title: Its name in the table.
        aspects: What is judged.
        rows: The questions, with references where the judge asks with them.
    """

    title: str
    aspects: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]


def read_set(
    name: str, source: str | None = None, *, aspects: Sequence[str] = (), limit: int | None = None
) -> QuestionSet:
    """Read a question set.

    Args:
        name: One of `SETS`, or a name of one's own with a source.
        source: A file with question (and correct and incorrect for "honest"), or a data set on the Hub. None: the paper's.
        aspects: What it is judged for; those of the paper, or helpful and harmless, if there are none.
        limit: How many questions are taken, after the paper's own sample.

    Raises:
        ConfigurationError: It cannot be read, or is not known and has no source.
    """
    known = SETS.get(name)
    if known is None and source is None:
        raise ConfigurationError(
            f"There is no question set {name!r}; there are {', '.join(SETS)}. For one of your own, say where it is: {name}=FILE."
        )
    if known is not None and source is None:
        records = read_records(known.hub[0], config=known.hub[1], split=known.split, columns=known.columns)
    else:
        records = read_records(str(source))
    rows = read_pairs(records)
    if known is not None and known.sample is not None and len(rows) > known.sample:
        rows = random.Random(SEED).sample(rows, known.sample)
    title = name if known is None else known.title
    own = known.aspects if known is not None else ("helpful", "harmless")
    return QuestionSet(title, tuple(aspects) or own, rows[:limit])


def answers_for(questions: QuestionSet, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of a set with the answers (and corrections) that a file holds for them, found by the question.

    Raises:
        ConfigurationError: It answers none of them.
    """
    found = {row["question"]: row for row in read_pairs(records) if "answer" in row}
    rows: list[dict[str, Any]] = []
    for row in questions.rows:
        if (answer := found.get(row["question"])) is not None:
            texts: dict[str, Any] = {key: answer[key] for key in ("answer", "correction") if key in answer}
            rows.append({**row, **texts, "score": answer["score"]})
    if not rows:
        raise ConfigurationError(f"The file answers none of the {len(questions.rows)} questions of {questions.title}.")
    return rows


@dataclass(frozen=True, slots=True)
class Cell:
    """One upstream on one set.

    Attributes:
        report: What the judge says.
        pairs: What was judged, and what is missing.
        questions: How many questions the set has.
    """

    report: WinRateReport
    pairs: Pairs
    questions: int


@dataclass(frozen=True, slots=True)
class ThreeHReport:
    """A table of win rates.

    Attributes:
        judge: The judge's name.
        aligner: Who corrected.
        cells: Upstream -> title of a set -> its cell.
    """

    judge: str
    aligner: str
    cells: dict[str, dict[str, Cell]]

    @property
    def versions(self) -> dict[str, str]:
        """What measured."""
        return {"aligner-integrations": __version__}

    @property
    def failures(self) -> int:
        """Requests without a reply, and rows that could not be made."""
        return sum(
            cell.report.failures + sum(cell.pairs.missing.values())
            for sets in self.cells.values()
            for cell in sets.values()
        )

    def columns(self) -> list[tuple[str, str]]:
        """Return (set, aspect) of each column, in their order."""
        found = {
            (title, aspect): None
            for sets in self.cells.values()
            for title, cell in sets.items()
            for aspect in cell.report.aspects
        }
        return list(found)

    def rate(self, upstream: str, title: str, aspect: str) -> WinRate | None:
        """Return the figures of one place in the table; None if there are none."""
        cell = self.cells[upstream].get(title)
        figures = None if cell is None else cell.report.aspects.get(aspect)
        return None if figures is None else figures.rates

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        cells = {
            upstream: {
                title: {**cell.report.to_dict(), "questions": cell.questions, "missing": cell.pairs.missing}
                for title, cell in sets.items()
            }
            for upstream, sets in self.cells.items()
        }
        return {"judge": self.judge, "aligner": self.aligner, "cells": cells, "versions": self.versions}

    def table(self) -> list[list[str]]:
        """Return omega of each upstream and column, with its interval, and their mean."""
        return self._table(lambda rate: rate.omega, str, lambda value: f"{100 * value:+.1f}%")

    def losses(self) -> list[list[str]]:
        """Return the loss rates likewise."""
        return self._table(lambda rate: rate.losses, Interval.share, lambda value: f"{100 * value:.1f}%")

    def _table(
        self, of: Callable[[WinRate], Interval], cell: Callable[[Interval], str], mean: Callable[[float], str]
    ) -> list[list[str]]:
        columns = self.columns()
        lines = [["", *(f"{title} {aspect}" for title, aspect in columns)]]
        values: list[list[float]] = [[] for _ in columns]
        for upstream in self.cells:
            line = [upstream]
            for found, (title, aspect) in zip(values, columns, strict=True):
                rate = self.rate(upstream, title, aspect)
                line.append("" if rate is None else cell(of(rate)))
                found += [] if rate is None else [of(rate).value]
            lines.append(line)
        if len(self.cells) > 1:
            lines.append(["mean", *(mean(statistics.fmean(found)) if found else "" for found in values)])
        return lines

    def page(self) -> Page:
        """Return the report as a page."""
        return Page(
            title=f"Three H: {self.aligner} before the judge {self.judge}",
            lead=[
                f"{upstream} on {title}: {len(cell.pairs.pairs)} of {cell.questions} questions judged."
                for upstream, sets in self.cells.items()
                for title, cell in sets.items()
            ],
            tables=[
                Table("Wins - losses", self.table(), "omega with its 95% interval over questions (paper, equation 5)"),
                Table("Losses", self.losses(), "corrections that were judged worse than the answer"),
            ],
            charts=self._charts(),
            examples=self._examples(),
            examples_title="Rows: those that were lost first, some of each upstream and set",
            notes=[f"The judge was {self.judge}. Measured with aligner-integrations {__version__}."],
        )

    def _charts(self) -> list[Chart]:
        found: list[Chart] = []
        for title, aspect in self.columns():
            rates = {name: rate for name in self.cells if (rate := self.rate(name, title, aspect)) is not None}
            if rates:
                found.append(
                    bars(
                        f"{title}, {aspect}: wins - losses in per cent",
                        {name: 100 * rate.omega.value for name, rate in rates.items()},
                        intervals={name: (100 * r.omega.low, 100 * r.omega.high) for name, r in rates.items()},
                    )
                )
        return found

    def _examples(self) -> list[Example]:
        return [
            Example(
                one.outcome,
                one.question,
                one.before,
                one.after,
                {"upstream": upstream, "set": title, **one.facts},
                one.more,
            )
            for upstream, sets in self.cells.items()
            for title, cell in sets.items()
            for one in cell.report.page().examples[:_MOST_EXAMPLES]
        ]


def evaluate(
    upstreams: Mapping[str, Model | Sequence[tuple[str, Mapping[str, Any]]]],
    sets: Sequence[QuestionSet],
    judge: Model,
    kept: Kept,
    *,
    aligner: Aligner | None,
    name: str = "aligner",
    wordings: Mapping[str, Wording] | None = None,
    prices: tuple[float, float] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ThreeHReport:
    """Judge the corrections of several upstreams' answers to several sets.

    Args:
        upstreams: Name -> who answers, or the rows of a file with its answers.
        sets: The questions.
        judge: Who judges.
        kept: Where answers, corrections and replies are kept.
        aligner: Who corrects; None: the files hold the corrections.
        name: The aligner's name, for the report.
        wordings: Aspect -> a wording of one's own.
        prices: US dollars for a million tokens that the judge reads, and writes.
        on_progress: Called with what is done, how much of it, and of how many.

    Raises:
        ConfigurationError: There is no upstream or no set, or they do not fit.
    """
    if not upstreams or not sets:
        raise ConfigurationError("At least one upstream and one question set are needed.")
    own = wordings or {}
    asked = {one.title: [own.get(aspect) or Wording.of(aspect) for aspect in one.aspects] for one in sets}
    cells: dict[str, dict[str, Cell]] = {}
    for upstream, answers in upstreams.items():
        cells[upstream] = {}
        for one in sets:
            where = f"{upstream}, {one.title}"
            made = make_pairs(
                one.rows if isinstance(answers, Model) else answers_for(one, answers),
                kept,
                upstream=answers if isinstance(answers, Model) else None,
                aligner=aligner,
                on_progress=_told(on_progress, where, len(one.rows)),
            )
            requests = 2 * sum(not pair.same for pair in made.pairs)
            report = win_rate.evaluate(
                made.pairs,
                judge,
                asked[one.title],
                kept,
                prices=prices,
                on_progress=_told(on_progress, f"{where}, judging", requests),
            )
            cells[upstream][one.title] = Cell(report, made, len(one.rows))
    return ThreeHReport(judge.name, name, cells)


def _told(
    on_progress: Callable[[str, int, int], None] | None, where: str, total: int
) -> Callable[[str, int], None] | None:
    if on_progress is None:
        return None
    return lambda what, done: on_progress(f"{where}: {what}", done, total)
