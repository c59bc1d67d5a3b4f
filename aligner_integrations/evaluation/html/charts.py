"""Plots as SVG that stands in a page: no files, no network, and ink of the page's own colour, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aligner_integrations.errors import require
from aligner_integrations.visible import visible

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's colour until the picture is text
_COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#a855f7", "#ef4444", "#64748b")
"""Seen on white and on black."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot and what it shows."""

    title: str
    svg: Markup = field(repr=False)
    figure: Figure = field(repr=False, compare=False)

    def _repr_png_(self) -> bytes:
        """Shown by notebooks. Not as SVG: what a stored notebook shows of one depends on who shows it."""
        out = io.BytesIO()
        self.figure.patch.set_alpha(1)
        self.figure.suptitle(self.title.replace("$", r"\$"), fontsize=10)
        self.figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
        return out.getvalue()


def bars(
    title: str,
    values: Mapping[str, float],
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    unit: str = "%",
) -> Chart:
    """Return horizontal bars, one a name, from the top down.

    Args:
        title: What they show.
        values: Name -> number.
        intervals: Name -> lowest and highest value that is likely, drawn as a line.
        unit: Written at the axis.
    """
    with _axes(title, 6.2, 0.7 + 0.34 * len(values)) as (axes, chart):
        places = range(len(values) - 1, -1, -1)
        axes.barh(list(places), list(values.values()), color=_COLORS[0], height=0.6)
        for place, name in zip(places, values, strict=True):
            if intervals and name in intervals:
                axes.plot(intervals[name], [place, place], color=_INK, linewidth=1.6, solid_capstyle="butt")
        axes.set_yticks(list(places), [_label(name) for name in values])
        axes.set_xlabel(unit)
        axes.axvline(0, color=_INK, linewidth=0.8)
    return chart()


def histogram(title: str, values: Mapping[str, Sequence[float]], *, unit: str = "", bins: int = 30) -> Chart:
    """Return how often values occur, one outline a name."""
    with _axes(title, 6.2, 2.6) as (axes, chart):
        numbers = [one for many in values.values() for one in many]
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        for color, (name, many) in zip(_COLORS * len(values), values.items(), strict=False):
            spread = (low, high if high > low else low + 1.0)
            axes.hist(many, bins=bins, range=spread, histtype="stepfilled", color=color, alpha=0.55, label=_label(name))
        axes.set_xlabel(unit)
        axes.set_ylabel("rows")
        axes.locator_params(axis="y", integer=True)  # there are no half rows
        if len(values) > 1:
            axes.legend(frameon=False, labelcolor=_INK)
    return chart()


def lines(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str = "",
    up: str = "",
    marks: Mapping[str, float] | None = None,
) -> Chart:
    """Return curves, one a name; `marks` are upright lines with a name."""
    with _axes(title, 6.2, 2.9) as (axes, chart):
        for color, (name, points) in zip(_COLORS * len(curves), curves.items(), strict=False):
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, linewidth=1.5, label=_label(name))
        for name, place in (marks or {}).items():
            axes.axvline(place, color=_INK, linewidth=1, linestyle="--")
            axes.annotate(_label(name), (place, 1), xycoords=("data", "axes fraction"), color=_INK, fontsize=8)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(frameon=False, labelcolor=_INK)
    return chart()


def over_time(title: str, counts: Mapping[str, Mapping[float, int]], *, width: float, up: str = "") -> Chart:
    """Return bars that stand on each other.

    Args:
        title: What they show.
        counts: Name -> when a bar begins, in seconds since 1970 -> its height.
        width: Of a bar, in seconds.
        up: Written at the upright axis.
    """
    with _axes(title, 6.2, 2.6) as (axes, chart):
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        places = sorted({place for of_one in counts.values() for place in of_one})
        feet = [0] * len(places)
        begins: Any = [datetime.fromtimestamp(place, UTC) for place in places]  # matplotlib's types know numbers alone
        for color, (name, of_one) in zip(_COLORS * len(counts), counts.items(), strict=False):
            heights = [of_one.get(place, 0) for place in places]
            wide: Any = timedelta(seconds=width)
            axes.bar(begins, heights, wide, feet, align="edge", color=color, label=_label(name))
            feet = [foot + height for foot, height in zip(feet, heights, strict=True)]
        locator = AutoDateLocator(tz=UTC, minticks=3)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
        axes.set_ylabel(up)
        if counts:
            axes.legend(frameon=False, labelcolor=_INK, loc="center left", bbox_to_anchor=(1, 0.5))
    return chart()


@contextmanager
def _axes(title: str, width: float, height: float) -> Iterator[tuple[Axes, Callable[[], Chart]]]:
    """Give empty axes, and a function that returns the finished chart."""
    with require("evaluate", "Plots need {missing}", "matplotlib", "markupsafe"):
        import matplotlib
        from markupsafe import Markup
        from matplotlib.figure import Figure

    ink = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), _INK)
    style: Any = {
        **ink,
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": visible(title),
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        done: list[str] = []
        yield axes, lambda: Chart(visible(title), Markup(done[0]), figure)  # noqa: S704 - matplotlib escapes its texts
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        picture = out.getvalue()
        picture = picture[picture.index("<svg") :]  # without the head of a file of its own
        picture = re.sub(r"<metadata>.*?</metadata>", "", picture, flags=re.DOTALL)
        done.append(picture.replace(_INK, "currentColor"))


def _label(name: str) -> str:
    """A name as it stands in a plot: no formula, nothing invisible, not wider than the plot."""
    text = visible(name).replace("$", r"\$")
    return text if len(text) <= 40 else f"{text[:39]}…"
