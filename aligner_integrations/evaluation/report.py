"""The figures of `quality.py` as values: stored, read back, and laid out as the table of a model card."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aligner_integrations.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Share:
    """`count` out of `of`, kept as counts so that nothing is lost by rounding."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0

    def __str__(self) -> str:
        """Render as per cent with one decimal."""
        return f"{100 * self.value:.1f}%"


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
    """

    settings: dict[str, Figures]
    baselines: dict[str, Figures]
    rows: dict[str, int]
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)

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
                line("chrF", lambda f: f.rude and _number(f.rude.chrf, 2)),
                line("BLEU", lambda f: f.rude and _number(f.rude.bleu, 1)),
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
        lines.append(line("failed", lambda f: _failures(f) if id(f) in settings else None))
        lines.append(line("seconds", lambda f: _number(f.seconds, 1) if id(f) in settings else None))
        return lines

    def to_markdown(self) -> str:
        """Return the table for a model card, with what it was measured with under it."""
        header, *lines = ([_escape(cell) for cell in line] for line in self.table())
        rule = ["---", *("---:" for _ in header[1:])]
        table = "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])
        return f"{table}\n\nMeasured with {', '.join(f'{name} {number}' for name, number in self.versions.items())}.\n"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _failures(figures: Figures) -> str:
    """Number of failed rows and, if any, of which types."""
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(figures.errors.items()))
    return f"{sum(figures.errors.values())}" + (f" ({kinds})" if kinds else "")


def _escape(cell: str) -> str:
    """A source's name comes from a file: keep it from breaking the table."""
    return re.sub(r"\s+", " ", cell).replace("\\", "\\\\").replace("|", "\\|")
