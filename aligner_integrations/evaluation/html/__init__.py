"""A report as one page of HTML that needs nothing else: no network, no server, light and dark.

What is on a page is a `Page` of plain values; every measure makes one, and `write` renders it. Texts on it come from models,
judges and users, so all of them are escaped, control characters are shown as such, and the page's own policy lets no script
run but its filter. Pictures: `charts.py`.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_integrations.correction import Edit, diff_words
from aligner_integrations.errors import require
from aligner_integrations.evaluation.html.charts import Chart
from aligner_integrations.visible import visible

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["MOST_EXAMPLES", "Chart", "Example", "Page", "Table", "render", "write"]

MOST_EXAMPLES = 200
"""Rows shown on a page; the first ones, so a measure puts those first that are worth reading."""
_MOST_CHARACTERS = 6_000
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Table:
    """A table: a header and lines of cells, under a title."""

    title: str
    lines: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One row that can be looked at.

    Attributes:
        outcome: One lower-case word; the page filters by it.
        question: The question.
        before: The answer.
        after: What the aligner made of it.
        facts: Label -> number or word, in the row's head.
        more: Label -> further text, such as the reference or a judge's reply, folded away.
    """

    outcome: str
    question: str
    before: str
    after: str
    facts: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)

    def edits(self) -> list[Edit]:
        """What changed, by words."""
        return list(diff_words(_cut(self.before), _cut(self.after)))


@dataclass(frozen=True, slots=True)
class Page:
    """What a report shows, from top to bottom.

    Attributes:
        title: Its first line.
        lead: Sentences below it: what was measured, on what.
        tiles: (label, number) of what matters most.
        tables: Tables.
        charts: Plots.
        examples: Rows; the first `MOST_EXAMPLES` are shown.
        examples_title: What the rows are, and in which order.
        notes: Sentences at the end: versions, and what was not measured.
    """

    title: str
    lead: Sequence[str] = ()
    tiles: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    examples: Sequence[Example] = ()
    examples_title: str = "Rows"
    notes: Sequence[str] = ()


def require_packages() -> None:
    """Find out before hours of measuring whether a page can be written after them.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    with require("evaluate", "A report in HTML needs {missing}", "jinja2", "matplotlib"):
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401


def render(page: Page) -> str:
    """Return a page as HTML.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    environment = _environment()
    from markupsafe import Markup

    script = (_HERE / "filter.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    examples = page.examples[:MOST_EXAMPLES]
    return environment.get_template("page.html").render(
        page=page,
        examples=examples,
        outcomes=sorted(Counter(one.outcome for one in examples).items()),
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=f"sha256-{digest}",
    )


def write(path: Path, page: Page) -> None:
    """Write a page. It holds questions and answers, so only its owner may read it.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    text = render(page).encode()  # first: what cannot be rendered leaves the old file
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@cache
def _environment() -> Environment:
    with require("evaluate", "A report in HTML needs {missing}", "jinja2"):
        import jinja2
        from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        # Whatever stands between double braces; a chart's SVG and the script are markup of our own.
        return value if isinstance(value, Markup) else escape(visible(_cut(str(value))))

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=finalize,
    )


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} ... and {len(text) - _MOST_CHARACTERS:,} characters more"
