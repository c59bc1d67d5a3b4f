"""The page of `aligner corpus --report`: what came of a corpus, and rows of it to look at."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aligner_integrations._version import __version__
from aligner_integrations.corpus import Columns, Summary
from aligner_integrations.corpus.records import BadRowError
from aligner_integrations.corpus.source import find_source
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.html import MOST_EXAMPLES, Example, Page, Table
from aligner_integrations.evaluation.html.charts import bars, histogram

_MOST_NUMBERS = 100_000
_MOST_REASONS = 20


def page_of(out: Path, summary: Summary, columns: Columns) -> Page:
    """Return the page of a finished corpus. Reads it once, whatever its size in constant memory.

    Args:
        out: The corrected file; its dead letters lie beside it.
        summary: What the run came to.
        columns: How its columns are called.
    """
    correction, outcome, reason, score, changed, model = columns.new
    drawn: list[tuple[int, Mapping[str, Any]]] = []
    numbers: dict[str, list[float]] = {"changed": [], "score": []}
    models: Counter[str] = Counter()
    rng = random.Random(0)  # the same rows on each page of the same corpus
    for seen, row in enumerate(_rows(out)):
        models[str(row[model])] += 1
        if len(drawn) < MOST_EXAMPLES:
            drawn.append((seen, row))
        elif (place := rng.randrange(seen + 1)) < MOST_EXAMPLES:
            drawn[place] = (seen, row)
        if seen < _MOST_NUMBERS:
            for name, value in (("changed", row[changed]), ("score", row[score])):
                if value not in (None, ""):  # as CSV has it
                    numbers[name].append(float(value))
    examples = [
        Example(
            str(row[outcome]),
            row[columns.question],
            row[columns.answer],
            row[correction],
            {
                "row": f"{seen + 1:,}",
                "changed": f"{float(row[changed]):.0%}",
                **({"score": str(row[score])} if row[score] not in (None, "") else {}),
                **({"reason": str(row[reason])} if row[reason] else {}),
            },
        )
        for seen, row in sorted(drawn, key=lambda one: (-float(one[1][changed]), one[0]))
    ]
    tables = [Table("Outcomes", [["outcome", "rows"], *([name, f"{n:,}"] for name, n in summary.outcomes.items())])]
    if summary.dead:
        tables.append(
            Table("Dead letters", [["reason", "rows"], *_reasons(out)], f"All of them: {out.name}.dead.jsonl")
        )
    charts = [bars("Outcomes", {name: float(n) for name, n in summary.outcomes.items()}, unit="rows")]
    if numbers["changed"]:
        charts.append(histogram("Share of an answer that changed", {"rows": numbers["changed"]}))
    if numbers["score"]:
        charts.append(histogram("Score of the gate", {"rows": numbers["score"]}))
    total = summary.rows + summary.dead
    which = "Rows" if len(drawn) == summary.rows else f"{len(drawn)} of {summary.rows:,} rows, drawn at random"
    return Page(
        f"Corpus {out.name}",
        [f"Corrected by {', '.join(sorted(models)) or 'nobody'}."],
        [
            ("rows", f"{total:,}"),
            ("corrected", f"{summary.outcomes.get('corrected', 0) / max(1, summary.rows):.1%}"),
            ("dead letters", f"{summary.dead:,}"),
        ],
        tables,
        charts,
        examples,
        f"{which}: those that changed most first",
        [f"Made with aligner-integrations {__version__}."],
    )


def _rows(out: Path) -> Iterator[Mapping[str, Any]]:
    for placed in find_source([str(out)]).records():
        try:
            yield placed.record.values()
        except BadRowError as error:  # somebody has written into it since
            raise ConfigurationError(f"{out}, row {placed.record.number}: {error}") from error


def _reasons(out: Path) -> list[list[str]]:
    """The reasons of dead letters, most frequent first; numbers in them are left out, so that alike ones are one."""
    counts: Counter[str] = Counter()
    with out.with_name(f"{out.name}.dead.jsonl").open(encoding="utf-8") as file:
        for line in file:
            reason = str(json.loads(line)["reason"])
            counts["".join("#" if letter.isdigit() else letter for letter in reason)] += 1
    return [[reason, f"{count:,}"] for reason, count in counts.most_common(_MOST_REASONS)]
