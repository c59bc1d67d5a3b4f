"""`aligner bench`: how fast an aligner corrects. The measuring lives in `bench/`, a file for each command."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aligner_integrations.cli import options
from aligner_integrations.cli.console import dump_json, echo, echo_json, note, print_table, progress
from aligner_integrations.cli.evaluate.quality import first_rows
from aligner_integrations.cli.options import JsonOption, LimitOption, ModelOption, TemplateOption, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aligner_integrations.aligner import Aligner
    from aligner_integrations.backends.base import Backend
    from aligner_integrations.bench.decoding import Case
    from aligner_integrations.bench.scripted import Script

app = options.group("Measure how fast an aligner corrects.")

_DRAFTS, _GATED = "drafts", "gate and drafts"


class Against(StrEnum):
    """Choices of `--against`."""

    LLAMA_CPP = "llama.cpp"


RowsOption = Annotated[Path, typer.Option(help="Answers to correct, as for aligner evaluate quality.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report here, as JSON.")]
RepeatsOption = Annotated[int, typer.Option(min=1, help="How often each answer is corrected in each way.")]


@app.command("decoding")
def decoding(
    rows: RowsOption,
    model: ModelOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    repeats: RepeatsOption = 1,
    hard: Annotated[
        bool,
        typer.Option(
            "--hard", help="Instead of its corrections, force ones that the answers are no draft of: the worst case."
        ),
    ] = False,
    against: Annotated[
        Against | None,
        typer.Option(help="Also time this one, in its package, on a file made of the same weights, without a gate."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="A torch dtype, such as bfloat16, instead of the device's.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the speed-ups here (.png, .svg or .pdf).")] = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time corrections by plain generate, by transformers' prompt lookup, and by drafting from the answer.

    The ways take turns answer by answer, and their texts are compared: drafting must not change any.
    """
    from aligner_integrations.bench.decoding import bench as measure

    if hard and against is not None:
        raise typer.BadParameter(
            "it goes without --hard: nobody else can be made to write a script.", param_hint="--against"
        )
    cases = _cases(rows, limit)
    scripts: dict[str, Script] = {}
    if hard:
        from aligner_integrations.backends.local.backend import LocalBackend
        from aligner_integrations.bench.scripted import hard_cases

        cases, scripts = hard_cases(cases, LocalBackend(name_of(model)).tokenizer)
    with ExitStack() as stack:
        ways = _ways(name_of(model), template, scripts, dtype)
        others = {}
        if against is not None:
            others = _others(name_of(model), template, Path(stack.enter_context(TemporaryDirectory(prefix="aligner-"))))
        done = stack.enter_context(progress("measuring", len(cases) * len(ways | others) * repeats))
        report = measure(ways | others, cases, repeats=repeats, on_progress=done)
    if plot is not None:
        report.plot(plot)
    if _written(report.to_dict(), output, as_json=as_json):
        return
    print_table(report.table(), numbers=True)
    for one in report.differences:
        if one.way != _GATED:  # a gate is there to change what is corrected
            gap = "" if one.gap is None else f" (logits {one.gap:.1e} apart)"
            echo(f"{one.way}, answer {one.number + 1} differs{gap}: {one.text!r} instead of {one.expected!r}")
    note(f"Times are those of whole corrections, one at a time, compared with {report.reference}.")
    if against is not None:
        for kind, times in report.ahead(_DRAFTS, list(others)).items():
            note(f"{kind}: drafts {times:.2f} times as fast as {against.value}'s better way.")


@app.command("replay")
def replay(
    files: Annotated[
        list[Path], typer.Argument(help="Recorded corrections, JSON Lines (.gz too): question, answer, correction.")
    ],
    model: ModelOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the forward passes that recorded corrections of any aligner take with drafts; no model is run."""
    from aligner_integrations.backends.local.backend import LocalBackend
    from aligner_integrations.bench.replay import read_recorded
    from aligner_integrations.bench.replay import replay as count

    tokenizer = LocalBackend(name_of(model)).tokenizer

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    found = {str(path): count(read_recorded(path, encode)) for path in files}
    if _written({name: one.to_dict() for name, one in found.items()}, output, as_json=as_json):
        return
    lines = [["", "tokens", "passes", "tokens a pass", "fed a token"]]
    for name, one in found.items():
        rates = [f"{one.tokens_per_pass:.2f}", f"{one.fed_per_token:.2f}"]
        lines.append([name, f"{one.tokens:,}", f"{one.passes:,}", *rates])
    print_table(lines, numbers=True)


@app.command("callers")
def callers(
    rows: RowsOption,
    model: ModelOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    count: Annotated[int, typer.Option("--callers", min=2, help="Callers at once.")] = 32,
    repeats: RepeatsOption = 1,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the corrections a second of many callers: behind a lock, in shared batches, and as lists."""
    from aligner_integrations.backends.local.backend import LocalBackend
    from aligner_integrations.bench.callers import bench_callers

    cases = _cases(rows, limit)
    single = _aligner(LocalBackend(name_of(model), batch_size=1), template, gate=True)
    shared = _aligner(LocalBackend(name_of(model)), template, gate=True)
    with progress("measuring", 4 * len(cases) * repeats) as done:
        report = bench_callers(single, shared, cases, callers=count, repeats=repeats, on_progress=done)
    if _written(report.to_dict(), output, as_json=as_json):
        return
    print_table(report.table(), numbers=True)
    alone, together = report.alone
    note(f"A caller alone waits {1000 * alone:.0f} ms, {1000 * together:.0f} ms where batches are shared.")


@app.command("overlap")
def overlap(
    rows: RowsOption,
    model: ModelOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    gate: Annotated[bool, typer.Option(help="With the aligner's own gate, or without any.")] = True,
    delay: Annotated[float, typer.Option(min=0, help="Seconds between two words of the upstream.")] = 0.03,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time from an upstream's last token to the first text of its correction, with and without reading ahead."""
    from aligner_integrations.backends.local.backend import LocalBackend
    from aligner_integrations.bench.overlap import bench_overlap

    cases = _cases(rows, limit)
    without = _aligner(LocalBackend(name_of(model), overlap=False), template, gate=gate)
    ahead = _aligner(LocalBackend(name_of(model)), template, gate=gate)
    with progress("measuring", 4 * len(cases)) as done:
        waits = bench_overlap(without, ahead, cases, delay=delay, on_progress=done)
    if _written({name: wait.to_dict() for name, wait in waits.items()}, output, as_json=as_json):
        return
    lines = [["", "without", "reading ahead", "saved"]]
    lines += [[name, f"{w.without:.2f} s", f"{w.ahead:.2f} s", f"{w.saved:.0%}"] for name, w in waits.items()]
    print_table(lines, numbers=True)


@app.command("overhead")
def overhead(
    rounds: Annotated[int, typer.Option(min=1, help="How often the two take turns, five calls each.")] = 100,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time a chain of LangChain with and without the hook by which an aligner finds the question; no model is run."""
    from aligner_integrations.bench.overhead import bench_overhead

    ways, look_up = bench_overhead(rounds=rounds)
    report = {"ways": {name: dataclasses.asdict(one) for name, one in ways.items()}, "look_up": look_up}
    if _written(report, output, as_json=as_json):
        return
    lines = [["", "without the hook", "with it", "share"]]
    for name, one in ways.items():
        lines.append([name, f"{one.without * 1e6:.0f} us", f"{one.hooked * 1e6:.0f} us", f"{one.share:.0%}"])
    print_table(lines, numbers=True)
    note(f"Medians of processor time a call. One look-up by an answer's text takes {look_up * 1e6:.0f} us more.")


@app.command("hits")
def hits(
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is taken.")] = 200,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time corrections that are in the cache already, in memory and in a file; no model is run."""
    from aligner_integrations.bench.hits import bench_hits

    found = bench_hits(rounds=rounds)
    if _written(found, output, as_json=as_json):
        return
    print_table([["", "a hit"], *([name, f"{seconds * 1e6:.0f} us"] for name, seconds in found.items())], numbers=True)


@app.command("recording")
def recording(
    records: Annotated[int, typer.Option(min=10, help="How many are given one at a time.")] = 2_000,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time how long a caller waits for its correction to be recorded; no model is run."""
    from aligner_integrations.bench.recording import bench_recording

    found = bench_recording(records=records)
    if _written({name: one.to_dict() for name, one in found.items()}, output, as_json=as_json):
        return
    lines = [["", "the caller waits", "one in a hundred", "in a burst", "with its writing"]]
    for name, one in found.items():
        lines.append([name, *(f"{seconds * 1e6:.0f} us" for seconds in one.to_dict().values())])
    print_table(lines, numbers=True)


@app.command("corpus")
def corpus(
    rows: Annotated[
        int, typer.Option(min=100, help="Rows that are corrected through a server on this machine.")
    ] = 20_000,
    kills: Annotated[int, typer.Option(min=0, help="How often the same is killed with a fifth of the rows.")] = 20,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a shard in the runs that are killed.")] = 100,
    ray: Annotated[bool, typer.Option("--ray", help="Kill runs of a Ray cluster with two workers.")] = False,
    quality_rows: Annotated[
        Path | None,
        typer.Option(
            "--rows-file",
            help="Also correct these rows (as for quality) as a corpus and in lists of 32.",
            metavar="FILE",
        ),
    ] = None,
    model: ModelOption = None,
    limit: LimitOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what `aligner corpus` adds to its server's time, what kills cost it, and what its shards cost a local aligner."""
    from aligner_integrations.bench.corpora import bench_kills, bench_lists, bench_overhead

    over = bench_overhead(rows)
    engine = ["--engine", "ray", "--ray-address", "local", "--workers", "2"] if ray else []
    killed = bench_kills(max(100, rows // 5), kills=kills, shard_rows=shard_rows, options=engine) if kills else None
    report: dict[str, Any] = {"overhead": over.to_dict(), "kills": killed and killed.to_dict()}
    lines = [["", ""], [f"{rows:,} rows, the server alone", f"at least {over.least:.2f} s"]]
    lines.append(["a bare client", f"{over.bare:.2f} s"])
    lines.append(["aligner corpus", f"{over.corpus:.2f} s ({over.over:+.0%})"])
    lines.append(["processor time a row", f"{over.cpu[0]:.0f} us a bare client, {over.cpu[1]:.0f} us aligner corpus"])
    lines.append(["memory by quarters", ", ".join(f"{size:.0f}" for size in over.memory) + " MB"])
    if killed is not None:
        which = f"{killed.kills} kills" + (f", {killed.workers} of workers" if ray else "")
        lines.append([which, f"the same bytes: {killed.same}; {killed.again:,} rows asked again"])
    if quality_rows is not None:
        from aligner_integrations.backends.local.backend import LocalBackend

        cases = _cases(quality_rows, limit)
        with progress("measuring", 2 * len(cases)) as done:
            rates = bench_lists(_aligner(LocalBackend(name_of(model)), None, gate=True), cases, on_progress=done)
        report["rates"] = rates.to_dict()
        lines.append(["lists of 32", f"{rates.lists:.2f} rows a second"])
        lines.append(["as a corpus", f"{rates.corpus:.2f} rows a second; {rates.same} of {rates.rows} texts the same"])
    if not _written(report, output, as_json=as_json):
        print_table(lines)


def _cases(rows: Path, limit: int | None) -> list[Case]:
    from aligner_integrations.bench.decoding import Case
    from aligner_integrations.evaluation.rows import read_rows

    return [Case(row.kind, row.question, row.answer) for row in first_rows(read_rows(rows), limit)]


def _written(report: dict[str, Any], output: Path | None, *, as_json: bool) -> bool:
    """Write a report where it is wanted; whether it went to standard output."""
    if output is not None:
        output.write_text(dump_json(report, indent=2) + "\n", "utf-8")
    if as_json:
        echo_json(report)
    return as_json


def _aligner(backend: Backend, template: str | None, *, gate: bool = False) -> Aligner:
    from aligner_integrations.aligner import Aligner

    aligner = Aligner(backend=backend, template=template, on_error="keep", on_overflow="keep")
    # Without a gate, its texts are those of `generate`.
    return aligner if gate else aligner.with_options(gate=False, edits="all")


def _ways(name: str, template: str | None, scripts: Mapping[str, Script], dtype: str | None) -> dict[str, Aligner]:
    """Return an aligner for each way of decoding; they share their weights."""
    from aligner_integrations.bench.scripted import ScriptedBackend

    def backend(**options: Any) -> ScriptedBackend:
        return ScriptedBackend(name, scripts, dtype=dtype, **options)

    drafting = backend()
    ways = {
        "generate": _aligner(backend(drafts=False), template),
        "prompt lookup": _aligner(backend(generation={"prompt_lookup_num_tokens": 10}), template),
        _DRAFTS: _aligner(drafting, template),
    }
    if drafting.gate is not None and not scripts:
        ways[_GATED] = _aligner(drafting, template, gate=True)
    return ways


def _others(name: str, template: str | None, folder: Path) -> dict[str, Aligner]:
    """Return an aligner for each way in which llama.cpp decodes; its file goes into a folder."""
    from aligner_integrations.bench.llama_cpp import llama_cpp_ways

    return {way: _aligner(backend, template) for way, backend in llama_cpp_ways(name, folder).items()}
