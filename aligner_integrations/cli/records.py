"""`aligner records`: what was recorded: shown, filtered and counted."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from aligner_integrations.cli.console import console, diff_text, echo, echo_json, note, print_table, styled
from aligner_integrations.cli.options import JsonOption
from aligner_integrations.correction import Outcome

if TYPE_CHECKING:
    from aligner_integrations.recording.records import Record

_STYLES = {"corrected": "green", "kept": "dim", "rejected": "yellow", "failed": "red", "skipped": "dim"}


def records(
    source: Annotated[Path, typer.Argument(help="What was recorded to: a .jsonl file, a folder, or SQLite.")],
    outcome: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(get_args(Outcome))}.", metavar="OUTCOME")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Only those whose reason begins like this.")] = None,
    aligner: Annotated[
        str | None, typer.Option(help="Only of an aligner: its model, or the beginning of its fingerprint.")
    ] = None,
    request: Annotated[str | None, typer.Option(help="Only of this request, run or trace.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Not before this moment (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this moment (UTC).")] = None,
    match: Annotated[str | None, typer.Option(help="Only with this in question, answer or correction.")] = None,
    last: Annotated[int, typer.Option(min=0, help="How many of them are shown, the newest.", metavar="N")] = 3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write those into a new .jsonl file.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page to look at: outcomes over time, and the newest of those.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show, filter and count recorded corrections."""
    from aligner_integrations.recording.records import read_records

    page = None
    if report is not None:
        from aligner_integrations.cli.records_page import RecordsPage
        from aligner_integrations.evaluation.html import require_packages, write

        require_packages()
        page = RecordsPage()

    if wrong := set(outcome or ()) - set(get_args(Outcome)):
        raise typer.BadParameter(f"{wrong.pop()!r} is none of {', '.join(get_args(Outcome))}.", param_hint="--outcome")
    damaged: list[str] = []
    counts = _Counts()
    newest: deque[Record] = deque(maxlen=last)
    tests: list[Callable[[Record], bool]] = [
        lambda r: not outcome or r.correction.outcome in outcome,
        lambda r: reason is None or (r.correction.reason or "").startswith(reason),
        lambda r: aligner is None or r.model == aligner or (r.aligner or "").startswith(aligner),
        lambda r: request is None or request in (r.request, r.trace),
        lambda r: since is None or r.when >= since.replace(tzinfo=since.tzinfo or UTC),
        lambda r: until is None or r.when < until.replace(tzinfo=until.tzinfo or UTC),
        lambda r: (
            match is None or any(match in t for t in (r.correction.question, r.correction.answer, r.correction.text))
        ),
    ]
    total = 0

    def matching() -> Iterator[Record]:
        nonlocal total
        for record in read_records(source, on_damaged=damaged.append):
            total += 1
            if all(test(record) for test in tests):
                counts.add(record)
                newest.append(record)
                if page is not None:
                    page.add(record)
                yield record

    if output is None:
        for _ in matching():
            pass
    else:
        _write(output, matching())
    if page is not None and report is not None:
        write(report, page.page(source, counts.table(), counts.sentence(total)))
        note(f"To look at: {report}")
    if as_json:
        shown = [r.to_dict() for r in newest]
        echo_json({"total": total, "damaged": len(damaged), **counts.to_dict(), "records": shown})
    else:
        _show(counts, newest, total)
    if damaged:
        note(f"{len(damaged)} lines are no records and were passed over; the first: {damaged[0]}.")


@dataclass
class _Counts:
    """What is counted of the records that match."""

    matching: int = 0
    first: datetime | None = None
    last: datetime | None = None
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    aligners: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        self.matching += 1
        self.first = record.when if self.first is None else min(self.first, record.when)
        self.last = record.when if self.last is None else max(self.last, record.when)
        correction = record.correction
        reason = (
            (correction.reason or "").partition(":")[0] if correction.outcome == "failed" else correction.reason or ""
        )
        self.outcomes[correction.outcome, reason] += 1
        self.aligners[record.model or record.aligner or "unnamed"] += 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "matching": self.matching,
            "first": self.first and self.first.isoformat(),
            "last": self.last and self.last.isoformat(),
            "outcomes": [
                {"outcome": outcome, "reason": reason or None, "count": count}
                for (outcome, reason), count in self.outcomes.most_common()
            ],
            "aligners": dict(self.aligners.most_common()),
        }

    def table(self) -> list[list[str]]:
        rows = [
            [outcome, reason, f"{count:,}", f"{count / self.matching:.1%}"]
            for (outcome, reason), count in self.outcomes.most_common()
        ]
        return [["outcome", "reason", "records", "share"], *rows]

    def sentence(self, total: int) -> str:
        if not self.matching:
            return f"None of {total:,} records match." if total else "There are no records yet."
        moments = [moment.strftime("%Y-%m-%d %H:%M") for moment in (self.first, self.last) if moment]
        of = f" of {total:,}" if total != self.matching else ""
        return f"{self.matching:,}{of} records from {' to '.join(moments)} UTC, by {', '.join(self.aligners)}."


def _show(counts: _Counts, newest: deque[Record], total: int) -> None:
    out = console()
    for record in newest:
        correction = record.correction
        head = [record.when.strftime("%Y-%m-%d %H:%M:%S"), correction.outcome, correction.reason or ""]
        head += [] if correction.score is None else [f"score {correction.score:.2f}"]
        head += [name for name in (record.model or record.aligner, record.request) if name]
        out.print(styled((" · ".join(part for part in head if part), _STYLES[correction.outcome])))
        out.print(styled((correction.question, "bold")))
        out.print(diff_text(correction.diff(), out))
        echo("")
    if not counts.matching:
        echo(counts.sentence(total))
        return
    print_table(counts.table())
    note(counts.sentence(total))


def _write(output: Path, found: Iterator[Record]) -> None:
    """Write records into a new file that its owner alone can read."""
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for record in found:
            file.write(record.to_json().encode() + b"\n")
