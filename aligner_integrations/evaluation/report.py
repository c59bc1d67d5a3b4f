"""What reports are made of, and the figures of `quality.py` as values: stored, read back, and laid out as a table.

Every measure gives a `Report`: plain data, a table, and a page (`html/`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.html import Chart, Example, Page, Table
from aligner_integrations.evaluation.html.charts import bars


class Report(Protocol):
    """What a measure gives."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Package -> version that measured."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line a measure."""

    def page(self) -> Page:
        """Return the whole as a page, with rows to look at."""


def markdown(report: Report) -> str:
    """Return a report's table for a model card, with what it was measured with under it."""
    header, *lines = ([_escape(cell) for cell in line] for line in report.table())
    rule = ["---", *("---:" for _ in header[1:])]
    table = "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])
    return f"{table}\n\n{measured_with(report.versions)}\n"


def measured_with(versions: Mapping[str, str]) -> str:
    """Return a sentence that names the packages that measured."""
    return "Measured with " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "."


@dataclass(frozen=True, slots=True)
class Share:
    """`count` out of `of`, kept as counts so that nothing is lost by rounding."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the share (Wilson, without continuity correction); (0, 1) of nothing."""
        if not self.of:
            return 0.0, 1.0
        z2 = 1.959964**2
        centre = (self.value + z2 / (2 * self.of)) / (1 + z2 / self.of)
        half = math.sqrt(z2 * (self.value * (1 - self.value) / self.of + z2 / (4 * self.of**2))) / (1 + z2 / self.of)
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        """Render as per cent with one decimal."""
        return f"{100 * self.value:.1f}%"


def share(hits: Iterable[bool]) -> Share:
    """Return how many of them are true."""
    values = list(hits)
    return Share(sum(values), len(values))


def number(value: float | None, digits: int) -> str | None:
    """Return a number for a cell; nothing of nothing."""
    return None if value is None else f"{value:.{digits}f}"


def failures(errors: Mapping[str, int]) -> str:
    """Return the number of failed rows and, if any, of which types."""
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(errors.items()))
    return f"{sum(errors.values())}" + (f" ({kinds})" if kinds else "")


@dataclass(frozen=True, slots=True)
class RudeFigures:
    """Rude rows: share still profane, chrF and BLEU against human rewrites, share unchanged, number of empty texts.

    chrF and BLEU are None for the human reference, which is one of those it would be compared with.
    """

    profane: Share
    chrf: float | None
    bleu: float | None
    unchanged: Share
    empty: int


@dataclass(frozen=True, slots=True)
class GoodFigures:
    """Good rows: share unchanged, in all and by source."""

    unchanged: Share
    sources: dict[str, Share]


@dataclass(frozen=True, slots=True)
class MixedFigures:
    """Mixed rows: share without profanity, share in which every other sentence is unchanged."""

    profanity_gone: Share
    others_unchanged: Share


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one setting; a kind without rows is None.

    Attributes:
        rude: Of rude answers.
        good: Of good answers.
        mixed: Of good answers with a rude sentence in them.
        outcomes: How many corrections had which outcome.
        errors: How many rows failed, by type of error.
        seconds: Wall-clock time of all corrections, without loading.
    """

    rude: RudeFigures | None = None
    good: GoodFigures | None = None
    mixed: MixedFigures | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Figures:
        """Read what `dataclasses.asdict` wrote."""
        values = dict(data)
        if (rude := values.get("rude")) is not None:
            shares = {key: Share(**rude[key]) for key in ("profane", "unchanged")}
            values["rude"] = RudeFigures(**{**rude, **shares})
        if (good := values.get("good")) is not None:
            sources = {name: Share(**share) for name, share in good["sources"].items()}
            values["good"] = GoodFigures(Share(**good["unchanged"]), sources)
        if (mixed := values.get("mixed")) is not None:
            values["mixed"] = MixedFigures(**{key: Share(**share) for key, share in mixed.items()})
        return cls(**values)


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Figures of one or several settings of an aligner over the same rows.

    Attributes:
        settings: Name of a setting ("gate", "no gate") -> its figures.
        baselines: The same for "copying" the answer and for the first "human" reference.
        rows: Kind -> number of rows.
        versions: Package -> version that measured; another word list gives other figures.
        examples: The rows of the first setting, for the page; not in `to_dict`.
    """

    settings: dict[str, Figures]
    baselines: dict[str, Figures]
    rows: dict[str, int]
    versions: dict[str, str]
    examples: Sequence[Example] = field(default=(), repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return {
            "settings": {name: dataclasses.asdict(one) for name, one in self.settings.items()},
            "baselines": {name: dataclasses.asdict(one) for name, one in self.baselines.items()},
            "rows": self.rows,
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QualityReport:
        """Read what `to_dict` wrote.

        Raises:
            ConfigurationError: A field is missing, unknown or of the wrong kind.
        """
        try:
            named = {
                key: {name: Figures.from_dict(figures) for name, figures in data[key].items()}
                for key in ("settings", "baselines")
            }
            return cls(**{**data, **named})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"This is not a stored quality report: {error!r}") from error

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line a measure with a column a setting and baseline."""
        columns = {**self.settings, **self.baselines}

        def line(label: str, cell: Callable[[Figures], object]) -> list[str]:
            return [label, *("" if (value := cell(figures)) is None else str(value) for figures in columns.values())]

        lines = [["", *columns]]
        if count := self.rows.get("rude"):
            lines += [
                line(f"{count} rude answers: still profane", lambda f: f.rude and f.rude.profane),
                line("chrF", lambda f: f.rude and number(f.rude.chrf, 2)),
                line("BLEU", lambda f: f.rude and number(f.rude.bleu, 1)),
                line("unchanged", lambda f: f.rude and f.rude.unchanged),
                line("empty", lambda f: f.rude and f.rude.empty),
            ]
        if count := self.rows.get("good"):
            lines.append(line(f"{count} good answers: unchanged", lambda f: f.good and f.good.unchanged))
            totals = {name: share.of for f in columns.values() if f.good for name, share in f.good.sources.items()}
            for name, total in totals.items():
                lines.append(line(f"{total} of {name}", lambda f, name=name: f.good and f.good.sources.get(name)))  # type: ignore[misc]
        if count := self.rows.get("mixed"):
            lines += [
                line(
                    f"{count} good answers with a rude sentence: profanity gone",
                    lambda f: f.mixed and f.mixed.profanity_gone,
                ),
                line("every other sentence unchanged", lambda f: f.mixed and f.mixed.others_unchanged),
            ]
        settings = set(map(id, self.settings.values()))
        lines.append(line("failed", lambda f: failures(f.errors) if id(f) in settings else None))
        lines.append(line("seconds", lambda f: number(f.seconds, 1) if id(f) in settings else None))
        return lines

    def to_markdown(self) -> str:
        """Return the table for a model card, with what it was measured with under it."""
        return markdown(self)

    def page(self) -> Page:
        """Return the report as a page: what went wrong first."""
        name, own = next(iter(self.settings.items()))
        return Page(
            title=f"Quality: {', '.join(self.settings)}",
            lead=[
                f"{sum(self.rows.values())} rows: " + ", ".join(f"{count} {kind}" for kind, count in self.rows.items()),
                "A rude answer has to become civil, a good one has to come back to the letter, and of a good one with a rude "
                "sentence only that sentence may change.",
            ],
            tiles=list(_tiles(own)),
            tables=[Table("Figures", self.table())],
            charts=list(_charts({**self.settings, **self.baselines})),
            examples=self.examples,
            examples_title=f"Rows of {name!r}: what went wrong first",
            notes=[measured_with(self.versions)],
        )


def _tiles(one: Figures) -> Iterable[tuple[str, str]]:
    if one.rude is not None:
        yield "rude answers still profane", str(one.rude.profane)
    if one.good is not None:
        yield "good answers unchanged", str(one.good.unchanged)
    if one.mixed is not None:
        yield "rude sentences gone", str(one.mixed.profanity_gone)
        yield "all else unchanged", str(one.mixed.others_unchanged)
    if one.errors:
        yield "failed", str(sum(one.errors.values()))


def _charts(columns: Mapping[str, Figures]) -> Iterable[Chart]:
    profane = {name: 100 * one.rude.profane.value for name, one in columns.items() if one.rude}
    if profane:
        yield bars("rude answers: still profane", profane)
    unchanged = {name: 100 * one.good.unchanged.value for name, one in columns.items() if one.good}
    if unchanged:
        yield bars("good answers: unchanged", unchanged)


def _escape(cell: str) -> str:
    """A source's name comes from a file: keep it from breaking the table."""
    return re.sub(r"\s+", " ", cell).replace("\\", "\\\\").replace("|", "\\|")
