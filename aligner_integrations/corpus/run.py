"""A whole corpus corrected: each row once, in order, whatever the process dies of.

    source -> shards -> those that are not done yet -> engine -> store -> when all are done: one output

What lives elsewhere: reading (`source.py`), correcting (`engine.py`), what is on disk (`store.py`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aligner_integrations._version import __version__
from aligner_integrations.corpus.engine import Done, Engine, LocalEngine, Pair, Result, is_outage
from aligner_integrations.corpus.records import BadRowError, Columns, Record
from aligner_integrations.corpus.source import Identity, Placed, Source, find_source
from aligner_integrations.corpus.store import ShardEntry, Store
from aligner_integrations.corpus.writers import Corrected, Writer, writer_for
from aligner_integrations.errors import BackendError, ConfigurationError, InputError
from aligner_integrations.fingerprint import fingerprint, made_with

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

SHARD_ROWS = 512
"""Rows of a shard, which is what a process that dies may have to do again."""

_SHARD_BYTES = 64 * 2**20
"""Bytes of a shard's rows, above which it ends earlier: it is held in memory."""

_VERSION = 1
_TOP = object()


OnProgress = Callable[[str, int, int], object]
"""(what, done, total): "reading" bytes of the input, which are digested, or "correcting" rows."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to.

    Attributes:
        rows: Rows of the whole corpus that were corrected, by this run and earlier ones, as far as it is.
        dead: Rows that were not.
        outcomes: How many rows came to which outcome.
        asked: Rows that this run gave to the aligner.
        seconds: How long this run took.
        finished: Whether the output is there; with parts it is the last one that writes it.
    """

    rows: int
    dead: int
    outcomes: dict[str, int]
    asked: int
    seconds: float
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return asdict(self)


def correct_corpus(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    aligner: Aligner,
    *,
    columns: Columns = Columns(),
    fields: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    shard_rows: int = SHARD_ROWS,
    part: tuple[int, int] = (1, 1),
    errors: Literal["skip", "stop"] = "skip",
    engine: Engine | None = None,
    name: str | None = None,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Correct all rows of a corpus.

    The output has the rows of the input in their order, each with the columns `correction`, `outcome`, `reason`, `score`,
    `changed_share` and `model`. What cannot be read or corrected is in `OUT.dead.jsonl`, with its file, its row and the reason.
    A process that dies loses the shard it is at; called again with the same arguments, the work goes on, and the output is, to the
    byte, what it would have been. When the output is there, nothing is done.

    Args:
        source: Files (.jsonl, .csv, .tsv, .parquet; the first three also .gz and .zst), folders, patterns, or one data set on the Hub.
        out: The output file; its name tells its format.
        aligner: What corrects. With `on_error="raise"`, its default, rows that fail become dead letters.
        columns: How columns are called.
        fields: The template's extra fields.
        split: Of a data set on the Hub.
        limit: Take only so many rows.
        shard_rows: Rows of a shard.
        part: (2, 3): do the second of three parts of the shards. The parts may run on different machines that share a disk.
        errors: What a row does that cannot be corrected: `"skip"`: it becomes a dead letter. `"stop"`: the run ends with an error.
        engine: Who corrects shards. Default: this process.
        name: What the aligner is called in the rows and in the manifest. Default: the name of its model, and a digest of its
            options and weights; needed where functions decide, because no process can tell whether another one's are the same.
        on_progress: Hears how far it is.

    Raises:
        ConfigurationError: The input or the options do not fit, or the output is made of something else.
        InputError: A row cannot be corrected, and `errors` is "stop".
        BackendError: The backend fails for more than half of a shard, or lets nothing through: the rows are not to blame.
        DiskError: The disk is full.
        AlignerError: The aligner cannot be had.
    """
    run = _Run(
        find_source([str(one) for one in ([source] if isinstance(source, str | Path) else source)], split=split),
        Store(Path(out), part),
        aligner,
        columns,
        dict(fields or {}),
        limit,
        shard_rows,
        errors,
        engine or LocalEngine(),
        name,
        on_progress or (lambda what, done, total: None),
    )
    return run()


@dataclass(slots=True)
class _Run:
    source: Source
    store: Store
    aligner: Aligner
    columns: Columns
    fields: dict[str, str]
    limit: int | None
    shard_rows: int
    errors: Literal["skip", "stop"]
    engine: Engine
    name: str | None
    on_progress: OnProgress
    writer: Writer = field(init=False)
    model: str = field(init=False)
    started: float = field(default_factory=time.monotonic)
    open: dict[int, _Open] = field(default_factory=dict)
    shards: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        """Look at everything that can be looked at before the first row is asked."""
        index, count = self.store.part
        if not 1 <= index <= count:
            raise ConfigurationError(f"Part {index} of {count} does not exist; the first one is 1 of {count}.")
        for what, number in (("limit", self.limit), ("shard_rows", self.shard_rows)):
            if number is not None and number < 1:
                raise ConfigurationError(f"{what} is {number}; it must be at least 1.")
        if self.errors not in ("skip", "stop"):
            raise ConfigurationError(f'errors is {self.errors!r}; it takes "skip" or "stop".')
        if self.source.header is not None:
            self.columns.check(self.source.header, str(self.source))
        self.writer = writer_for(self.store.out.name, self.source, self.columns)

    def __call__(self) -> Summary:
        """Do what is not done yet."""
        manifest = self.store.read_manifest()
        known = [Identity(**one) for one in manifest["sources"]] if manifest else []
        sources = self._identities(known)
        made_of = self._made_of(sources)
        if manifest is not None:
            self._compare(made_of, manifest["made_of"])
            if manifest["finished"] is not None:
                return self._already(manifest["finished"])
        with self.store.locked():
            if manifest is None:
                self.store.write_manifest(self._manifest(sources, made_of, None))
            entries = self.store.entries()
            self._correct(entries, sum(one.rows for one in sources))
            entries = self.store.entries()
            if len(entries) < self.shards:
                return self._summary(entries.values(), finished=False)
            return self._finish([entries[shard] for shard in range(self.shards)], sources, made_of)

    # What it is made of -----------------------------------------------------------------------------------------------

    def _identities(self, known: list[Identity]) -> list[Identity]:
        read, total = 0, self.source.size

        def on_bytes(count: int) -> None:
            nonlocal read
            read += count
            self.on_progress("reading", read, total)

        return self.source.identities(known, on_bytes)

    def _made_of(self, sources: Sequence[Identity]) -> dict[str, Any]:
        identity = identity_of(self.aligner) if self.name is None else ""  # asks a server which model it has
        self.model = self.name or model_name(self.aligner)
        return {
            "input": [one.sha256 for one in sources],
            "columns": asdict(self.columns),
            "fields": self.fields,
            "limit": self.limit,
            "shard_rows": self.shard_rows,
            "aligner": f"{self.model} {identity}".strip(),
        }

    def _compare(self, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        if other := sorted(name for name in {*now, *before} if now.get(name, _TOP) != before.get(name, _TOP)):
            raise ConfigurationError(
                f"{self.store.out} is made with other {' and '.join(other)} ({self.store.manifest} says so), and nothing is mixed. "
                f"Name another output, or delete {self.store.out.name}* to begin anew."
            )

    @staticmethod
    def _manifest(
        sources: Sequence[Identity], made_of: Mapping[str, Any], finished: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        named = [one.to_dict() for one in sources]
        return {"version": _VERSION, "made_of": made_of, "sources": named, "finished": finished}

    def _already(self, finished: Mapping[str, Any]) -> Summary:
        out = self.store.out
        if not out.exists() or out.stat().st_size != finished["size"]:
            raise ConfigurationError(
                f"{out} is no longer what {self.store.manifest.name} says that it is. Delete both to begin anew."
            )
        with self.store.joining():
            self.store.remove_shards()
        return Summary(
            finished["rows"], finished["dead"], finished["outcomes"], 0, time.monotonic() - self.started, finished=True
        )

    # Shard by shard ----------------------------------------------------------------------------------------------------

    def _correct(self, entries: Mapping[int, ShardEntry], total: int) -> None:
        index, count = self.store.part
        total = -(-min(total, self.limit or total) // count)
        done = sum(one.rows + one.dead for one in entries.values() if one.shard % count == index - 1)
        guard = threading.Lock()

        def on_rows(rows: int) -> None:
            nonlocal done
            with guard:  # threads that ask a server call this, too
                done += rows
                self.on_progress("correcting", done, max(total, done))

        on_rows(0)
        work = self.engine.correct(self.aligner, self._to_do(entries), self.fields, on_rows)
        with closing(work):  # type: ignore[type-var]  # engines are generators
            for shard, results in work:
                self._write(shard, results)

    def _to_do(self, entries: Mapping[int, ShardEntry]) -> Iterator[tuple[int, list[Pair]]]:
        """Yield the shards that are this process's and not done; rows of others are passed over unread."""
        index, count = self.store.part
        for shard, placed in enumerate(self._cut()):
            self.shards = shard + 1
            if shard in entries or shard % count != index - 1:
                continue
            opened = self.open[shard] = _Open(placed, self.columns)
            if opened.dead and self.errors == "stop":
                _stop(next(iter(opened.dead.values())))
            self.asked += len(opened.pairs)
            yield shard, opened.pairs

    def _cut(self) -> Iterator[list[Placed]]:
        """Cut the rows into shards, in the same places each time."""
        shard: list[Placed] = []
        size = 0
        for number, placed in enumerate(self.source.records()):
            if number == self.limit:
                break
            shard.append(placed)
            size += placed.record.size
            if len(shard) == self.shard_rows or size >= _SHARD_BYTES:
                yield shard
                shard, size = [], 0
        if shard:
            yield shard

    def _write(self, shard: int, results: Sequence[Result]) -> None:
        """Put a shard on disk.

        Raises:
            BackendError: So much of it failed that the rows are not to blame.
            InputError: A row failed, and none may.
        """
        if outage := is_outage(results):
            raise BackendError(
                f"The aligner's backend fails, so this shard ({shard}) is left undone: {outage.reason} What was done is kept; the "
                "same command goes on from there.",
                retryable=True,
            )
        opened = self.open.pop(shard)
        rows, dead = opened.settled(results, self.columns, self.model)
        if dead and self.errors == "stop":
            _stop(dead[0])
        counts = Counter(str(row.new[self.columns.new[1]]) for row in rows)
        self.store.write_shard(shard, self.writer.shard(rows), dict(sorted(counts.items())), dead)

    # All of it ----------------------------------------------------------------------------------------------------------

    def _finish(
        self, entries: Sequence[ShardEntry], sources: Sequence[Identity], made_of: Mapping[str, Any]
    ) -> Summary:
        """Make one output of all shards, unless another part has done so."""
        with self.store.joining():
            manifest = self.store.read_manifest()
            summary = self._summary(entries, finished=True)
            if manifest is None or manifest["finished"] is None:
                self.store.write_dead(entries)
                size, digest = self.store.write_out(self.writer.whole(self.store.shard_bytes(entries)))
                finished = {"rows": summary.rows, "dead": summary.dead, "outcomes": summary.outcomes}
                self.store.write_manifest(
                    self._manifest(sources, made_of, {**finished, "size": size, "sha256": digest})
                )
            self.store.remove_shards()
        return summary

    def _summary(self, entries: Any, *, finished: bool) -> Summary:
        outcomes: Counter[str] = Counter()
        rows = dead = 0
        for entry in entries:
            outcomes.update(entry.outcomes)
            rows, dead = rows + entry.rows, dead + entry.dead
        seconds = time.monotonic() - self.started
        return Summary(rows, dead, dict(sorted(outcomes.items())), self.asked, seconds, finished)


class _Open:
    """A shard that is being corrected: its rows as they were read, and what is wrong with others.

    Args:
        placed: Its rows as they stand in the input.
        columns: How columns are called.
    """

    def __init__(self, placed: Sequence[Placed], columns: Columns) -> None:
        self.pairs: list[Pair] = []
        self.dead: dict[int, dict[str, Any]] = {}
        self._rows: dict[int, tuple[Record, Mapping[str, Any]]] = {}
        self._placed = placed
        for place, one in enumerate(placed):
            try:
                question, answer, values = one.record.pair(columns)
            except BadRowError as error:
                self.dead[place] = _letter(one, str(error))
            else:
                self.pairs.append((question, answer))
                self._rows[place] = (one.record, values)

    def settled(
        self, results: Sequence[Result], columns: Columns, model: str
    ) -> tuple[list[Corrected], list[dict[str, Any]]]:
        """Return its rows with their corrections, and its dead letters, both in order."""
        rows, dead = [], dict(self.dead)
        for (place, (record, values)), result in zip(self._rows.items(), results, strict=True):
            if isinstance(result, Done):
                cells = (result.text, result.outcome, result.reason, result.score, result.changed_share, model)
                rows.append(Corrected(record, values, dict(zip(columns.new, cells, strict=True))))
            else:
                dead[place] = _letter(self._placed[place], result.reason)
        return rows, [dead[place] for place in sorted(dead)]


def _letter(placed: Placed, reason: str) -> dict[str, Any]:
    return {"file": placed.file, "row": placed.record.number, "reason": reason}


def _stop(letter: Mapping[str, Any]) -> None:
    raise InputError(
        f"{letter['file']}, row {letter['row']}: {letter['reason']} What was done before is kept; with --errors skip such rows "
        "become dead letters."
    )


def model_name(aligner: Aligner) -> str:
    """Return what the corrected rows call their aligner: the name of its model, or its backend's."""
    backend = aligner.backend
    for name in ("name", "model", "_served"):
        if isinstance(found := vars(backend).get(name), str):
            return found
    return type(backend).__name__


def identity_of(aligner: Aligner) -> str:
    """Return what decides an aligner's texts, in a form that another process can come to, too."""
    backend = aligner.backend
    made = made_with(backend) if backend.fingerprint is None else backend.fingerprint
    return fingerprint(__version__, made, aligner.template, aligner.policy)
