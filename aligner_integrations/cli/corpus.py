"""`aligner corpus`: all rows of files or of a data set, each once and in order, whatever dies in between."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import echo_json, note, progress_bars
from aligner_integrations.cli.options import (
    AlignerOptions,
    EditsOption,
    FieldOption,
    GateOption,
    JsonOption,
    OnError,
    RecordOption,
)
from aligner_integrations.corpus import Columns, LocalEngine, RayEngine, Summary, correct_corpus
from aligner_integrations.corpus.engine import Engine
from aligner_integrations.corpus.run import SHARD_ROWS


class Errors(StrEnum):
    """Choices of `--errors`."""

    SKIP = "skip"
    STOP = "stop"


class Engines(StrEnum):
    """Choices of `--engine`."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The options that say who corrects.

    Attributes:
        engine: This process, or a Ray cluster.
        ray_address: The cluster's.
        workers: How many.
        worker_cpus: CPUs of each.
        worker_gpus: GPUs of each.
    """

    engine: Annotated[Engines, typer.Option(help="Who corrects: this process, or a Ray cluster.")] = Engines.LOCAL
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="With ray: the cluster's. Default: RAY_ADDRESS, else one on this machine.", metavar="HOST:PORT"
        ),
    ] = None
    workers: Annotated[
        str, typer.Option(help="With ray: how many, or how many at least and at most.", metavar="N or N-M")
    ] = "1-2"
    worker_cpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With ray: CPUs of a worker. Default: one; for weights on CPUs as many as this process would use.",
        ),
    ] = None
    worker_gpus: Annotated[float, typer.Option(min=0, help="With ray: GPUs of a worker.")] = 0.0

    def make(self) -> Engine:
        """Return the engine.

        Raises:
            typer.BadParameter: The number of workers is none.
            AlignerError: Ray is not installed.
        """
        if self.engine is Engines.LOCAL:
            return LocalEngine()
        least, dash, most = self.workers.partition("-")
        if not least.isdecimal() or (dash and not most.isdecimal()):
            raise typer.BadParameter(f"{self.workers!r} is no number and no N-M, such as 2-8.", param_hint="--workers")
        return RayEngine(
            self.ray_address, workers=(int(least), int(most or least)), cpus=self.worker_cpus, gpus=self.worker_gpus
        )


@options.takes_options
def corpus(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="Files, folders or patterns: .jsonl, .csv, .tsv (.gz and .zst, too), .parquet; or one data set on the Hub.",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The corrected file; its name tells its format.")],
    *,
    which: AlignerOptions,
    question_column: Annotated[str, typer.Option(help="The column with the questions.", metavar="NAME")] = "question",
    answer_column: Annotated[str, typer.Option(help="The column with the answers.", metavar="NAME")] = "answer",
    prefix: Annotated[str, typer.Option(help="What stands before the names of the new columns.")] = "",
    split: Annotated[str, typer.Option(help="Split of a data set on the Hub.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N rows.", metavar="N")] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Do the I-th of N parts, for several machines that share a disk.", metavar="I/N"),
    ] = None,
    shard_rows: Annotated[
        int, typer.Option(min=1, help="Rows that are done again at most after a kill.", metavar="N")
    ] = SHARD_ROWS,
    errors: Annotated[
        Errors, typer.Option(help="What a row does that cannot be corrected: it goes to OUT.dead.jsonl, or all ends.")
    ] = Errors.SKIP,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Most requests on the way to a server at once.", metavar="N")
    ] = None,
    field: FieldOption = None,
    gate: GateOption = True,
    edits: EditsOption = None,
    on_error: Annotated[
        OnError, typer.Option(help="What stands for a correction that fails; raise: its row is a dead letter.")
    ] = OnError.RAISE,
    cluster: ClusterOptions,
    record: RecordOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="When all is done, write a page here: outcomes, plots, rows to look at.", metavar="FILE.html"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Correct all rows of a corpus: the same rows with the correction and what happened to it.

    A run that was killed goes on with the same command, to the byte; a finished one does nothing. Rows that cannot be read or
    corrected are in OUT.dead.jsonl with their number and the reason.
    """
    columns = Columns(question_column, answer_column, prefix)
    part = _part(shard)
    engine = cluster.make()
    _check(record, report, cluster)
    aligner = options.make_aligner(which, gate=gate, edits=edits, on_error=on_error, at_once=at_once)
    fields = options.fields_of(field)
    with options.recording(aligner, record) as aligner, progress_bars() as on_progress, _seldom_collected():
        summary = correct_corpus(
            source,
            out,
            aligner,
            columns=columns,
            fields=fields,
            split=split,
            limit=limit,
            shard_rows=shard_rows,
            part=part,
            errors=errors.value,
            engine=engine,
            on_progress=on_progress,
        )
    if as_json:
        echo_json(summary.to_dict())
    note(_told(summary, out, part))
    if summary.finished and summary.dead:
        note(f"Which rows those are, and why: {out}.dead.jsonl")
    if report is not None and summary.finished:
        from aligner_integrations.cli.corpus_page import page_of
        from aligner_integrations.evaluation.html import write

        write(report, page_of(out, summary, columns))
        note(f"To look at: {report}")


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Have the garbage collector look more seldom: it takes one part in twenty of the work through a server, for next to no garbage."""
    before = gc.get_threshold()
    gc.set_threshold(10_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _check(record: str | None, report: Path | None, cluster: ClusterOptions) -> None:
    """Refuse what could not be done, before hours of work."""
    if record is not None and cluster.engine is not Engines.LOCAL:
        raise typer.BadParameter(
            "it goes with --engine local: workers of a cluster have other disks.", param_hint="--record"
        )
    if report is not None:
        from aligner_integrations.evaluation.html import require_packages

        require_packages()


def _part(shard: str | None) -> tuple[int, int]:
    if shard is None:
        return 1, 1
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise typer.BadParameter(f"{shard!r} is not I/N, such as 2/3 for the second of three.", param_hint="--shard")
    return int(index), int(count)


def _told(summary: Summary, out: Path, part: tuple[int, int]) -> str:
    counts = [f"{count:,} {outcome}" for outcome, count in summary.outcomes.items()]
    if summary.dead:
        counts.append(f"{summary.dead:,} dead letter{'s' if summary.dead > 1 else ''}")
    rows = summary.rows + summary.dead
    words = f"{rows:,} row{'' if rows == 1 else 's'}" + (f": {', '.join(counts)}" if counts else "")
    if not summary.finished:
        return f"Part {part[0]} of {part[1]} is done ({words} by all so far). {out} is written when the other parts are done."
    if not summary.asked:
        return f"{out} is finished ({words}); the aligner was not asked."
    return f"{out}: {words}; {summary.asked:,} of them now, in {summary.seconds:.1f} s."
