"""Takes corrections and has them written by a thread, so that no answer waits for a disk.

The queue is bounded: what does not fit is dropped, counted and said. Redaction comes before the disk, on that thread. What lives elsewhere:
which kind of place a path names (`places.py`), how records lie there (`lines.py`, `database.py`), and what of them (`redaction.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import random
import sys
import threading
import time
from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4
from weakref import WeakSet

from aligner_integrations import telemetry, threads
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError, RecordingError
from aligner_integrations.forking import survives_fork
from aligner_integrations.recording.places import place_of
from aligner_integrations.recording.records import DATABASES, Record
from aligner_integrations.recording.redaction import Redact, redacted
from aligner_integrations.recording.requests import request_of

logger = logging.getLogger(__name__)

_LINGER = 0.02
"""Seconds to gather records before they are written together."""
_AT_ONCE = 500
_MOST_CHARACTERS = 2**26
"""What may wait in memory, in all texts together."""
_SAID_EVERY = 60.0
_AT_EXIT = 30.0


class _Given(NamedTuple):
    """A correction that waits, with what is known of it only where it was made."""

    time: float
    correction: Correction
    aligner: str | None
    model: str | None
    request: str | None
    trace: str | None


class Recorder:
    """Records corrections: `Aligner(record=Recorder("corrections.jsonl", sample=0.1))`.

    Any number of threads, processes and recorders may share a place. After `flush()` or `close()` returned, everything given before is
    on the disk; the end of the process flushes, too, but for a kill or `os._exit`. What is pickled or forked is a recorder of
    the same place with nothing waiting.

    Args:
        path: A file (`.jsonl`), an SQLite database (`.db`, `.sqlite`, `.sqlite3`), or a folder. Only the owner may read what is made.
        sample: Share of the corrections that is recorded, drawn at random.
        redact: Called with each text (question, answer, correction, the reason of a failure) before it is written. If it raises,
            the record is dropped.
        max_bytes: A file that would grow above this is renamed (`corrections.20261130T001500000000Z.jsonl`), and a new one begun. Not for
            SQLite.
        daily: Whether that is also done at the first record of a day (UTC).
        queue: How many corrections may wait to be written; what comes on top is dropped.

    Raises:
        ConfigurationError: The place cannot be written to, or an option makes no sense.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample: float = 1.0,
        redact: Redact | None = None,
        max_bytes: int = 2**28,
        daily: bool = False,
        queue: int = 10_000,
    ) -> None:
        if not 0 < sample <= 1:
            raise ConfigurationError(f"sample is {sample!r}; it is a share above 0 and up to 1.")
        if not (redact is None or callable(redact)):
            raise ConfigurationError(f"redact is {type(redact).__name__}; it takes a function from text to text.")
        if queue < 1 or max_bytes < 2**10:
            raise ConfigurationError(f"queue is {queue} and max_bytes {max_bytes}; they need 1 and {2**10} at least.")
        self.path = Path(path)
        self._named = str(path)
        self.sample, self.redact, self.max_bytes, self.daily, self.queue = sample, redact, max_bytes, daily, queue
        self._place = place_of(path, max_bytes=max_bytes, daily=daily)
        self.begin_anew()
        survives_fork(self)
        _living.add(self)

    def begin_anew(self) -> None:
        """In a forked child nothing waits: what the parent was given, the parent writes."""
        self._guard = threading.Condition()
        self._waiting: deque[_Given] = deque()
        self._characters = 0
        self._given = self._settled = 0
        self._running = self._closed = False
        self._hurry = threading.Event()
        self._rng = random.Random()
        self._lost: Counter[str] = Counter()
        self._said_at = -_SAID_EVERY
        self._ends_with_process = False
        self.written = 0
        self.dropped = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """What waits is not part of a copy."""
        options = {name: getattr(self, name) for name in ("sample", "redact", "max_bytes", "daily", "queue")}
        return partial(Recorder, **options), (self._named,)

    def __repr__(self) -> str:
        return f"Recorder({str(self.path)!r}): {self.written} written, {self.dropped} dropped"

    # Taking them ----------------------------------------------------------------------------------------------------

    def __call__(self, correction: Correction) -> None:
        """Record a correction. Never waits for the disk, and never raises."""
        self.take(correction)

    def take(
        self, correction: Correction, *, aligner: str | None = None, model: str | None = None, number: int = 0
    ) -> None:
        """Record a correction with its aligner's fingerprint and model; `number` is its place in a batch."""
        if self.sample < 1 and self._rng.random() >= self.sample:
            return
        given = _Given(time.time(), correction, aligner, model, request_of(number), telemetry.trace_id())
        size = len(correction.question) + len(correction.answer) + len(correction.text)
        start = False
        with self._guard:
            why = self._refusal(size)
            if why is None:
                self._waiting.append(given)
                self._characters += size
                self._given += 1
                start, self._running = not self._running, True
                if 2 * len(self._waiting) >= self.queue:
                    self._hurry.set()
        if why is not None:
            self._lose(1, why)
        elif start:
            self._start()

    def _refusal(self, size: int) -> str | None:
        if self._closed:
            return "the recorder was closed"
        if len(self._waiting) >= self.queue or (self._waiting and self._characters + size > _MOST_CHARACTERS):
            return "they came faster than the disk takes them"
        return None

    def _start(self) -> None:
        if not self._ends_with_process:
            self._ends_with_process = True
            _flush_at_end_of_worker(self)
        try:
            threads.submit(self._work)
        except AlignerError:  # no thread at the moment: the next correction, or flush, sees to it
            with self._guard:
                self._running = False
                self._guard.notify_all()

    # Writing them ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            self._hurry.wait(_LINGER)
            if not self._write_some():
                return

    def _write_some(self) -> bool:
        """Write the next batch; False if there is none, and nobody writes any more."""
        with self._guard:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
            if not batch:
                self._running = False
                self._hurry.clear()
                self._guard.notify_all()
                return False
        try:
            self._put(batch)
        finally:
            with self._guard:
                self._settled += len(batch)
                self._characters -= sum(
                    len(g.correction.question) + len(g.correction.answer) + len(g.correction.text) for g in batch
                )
                self._guard.notify_all()
        return True

    def _put(self, batch: list[_Given]) -> None:
        records = [record for given in batch if (record := self._record(given)) is not None]
        if not records:
            return
        try:
            self._place.write(records)
        except OSError as error:
            self._lose(len(records), f"the disk refused: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on, and it is said
            self._lose(len(records), f"writing raised {type(error).__name__}")
        else:
            with self._guard:
                self.written += len(records)

    def _record(self, given: _Given) -> Record | None:
        try:
            correction = given.correction if self.redact is None else redacted(given.correction, self.redact)
        except Exception as error:  # noqa: BLE001 - a text that could not be redacted must not be kept
            self._lose(1, f"redact raised {type(error).__name__}")
            return None
        return Record(uuid4().hex, given.time, correction, *given[2:])

    def _lose(self, count: int, why: str) -> None:
        """Count what is not recorded, and say so: at once, and then at most once a minute."""
        with self._guard:
            self.dropped += count
            self._lost[why] += count
            now = time.monotonic()
            say = now - self._said_at >= _SAID_EVERY
            self._said_at = now if say else self._said_at
            dropped = self.dropped
        telemetry.count("aligner.records.dropped", count, {})
        if say:
            logger.error("%d corrections were not recorded in %s so far: %s.", dropped, self.path, why)

    # Waiting for them -----------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything given so far is on the disk.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            RecordingError: Some of what was given since the last flush was dropped, or it took too long.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._guard:
            target = self._given
            self._hurry.set()
        while self._await(target, until):
            while self._write_some():  # no thread could be started, or it is too late for threads
                pass
        with self._guard:
            if not self._running:
                self._hurry.clear()
            lost = dict(self._lost)
            self._lost.clear()
        try:
            self._place.sync()
        except OSError as error:
            raise RecordingError(f"{self.path} did not reach the disk: {error.strerror or error}.") from error
        if lost:
            what = "; ".join(f"{count}, {why}" for why, count in lost.items())
            raise RecordingError(f"Not all corrections since the last flush are in {self.path}: {what}.")

    def _await(self, target: int, until: float | None) -> bool:
        """Wait until so many are settled; True if nobody is about to write them, and whoever waits has to."""
        with self._guard:
            while self._settled < target:
                if not self._running:
                    self._running = True
                    return True
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise RecordingError(f"{target - self._settled} corrections were not on the disk in time.")
                self._guard.wait(left)
        return False

    def close(self, timeout: float | None = None) -> None:
        """Flush, and take no more.

        Raises:
            RecordingError: As `flush`.
        """
        with self._guard:
            self._closed = True
        self.flush(timeout)


class Recording(NamedTuple):
    """A recorder, and whose corrections it is given."""

    recorder: Recorder
    aligner: str
    model: str | None

    def __call__(self, correction: Correction) -> None:
        """Record a correction."""
        self.take(correction, 0)

    def take(self, correction: Correction, number: int) -> None:
        """Record the `number`-th correction of a batch."""
        self.recorder.take(correction, aligner=self.aligner, model=self.model, number=number)


def recorder_of(record: object) -> Any:
    """Return what `Aligner(record=...)` means: a recorder for a place, any function as it is, or None.

    Raises:
        ConfigurationError: It is neither, or the place cannot be written to.
    """
    if isinstance(record, str | Path):
        return Recorder(record)
    if record is None or (callable(record) and not isinstance(record, type)):
        return record
    if isinstance(record, list):
        raise ConfigurationError("record is a list; give its append, which is called with each Correction.")
    raise ConfigurationError(
        f"record is {record!r}; it takes a file (.jsonl), a database ({', '.join(DATABASES)}), a folder, a Recorder or a function."
    )


# The end of a process -----------------------------------------------------------------------------------------------

_living: WeakSet[Recorder] = WeakSet()


def _flush(recorder: Recorder) -> None:
    try:
        recorder.flush(_AT_EXIT)
    except RecordingError as error:
        logger.error("%s", error)


def _flush_all() -> None:
    for recorder in list(_living):
        _flush(recorder)


atexit.register(_flush_all)


def _flush_at_end_of_worker(recorder: Recorder) -> None:
    """A worker of multiprocessing ends without `atexit`."""
    processes: Any = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        with contextlib.suppress(ImportError):
            from multiprocessing.util import Finalize

            Finalize(None, _flush, args=(recorder,), exitpriority=100)
