"""How long a caller waits for its correction to be recorded, and how long a record takes in all, with its writing.

What lives elsewhere: the recorder (`recording/recorder.py`), and the command (`cli/bench.py`).
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_integrations.correction import Correction
from aligner_integrations.recording.recorder import Recorder

_TEXT = "It is bad, and so on. " * 20
_BURST = 2_000


@dataclass(frozen=True, slots=True)
class RecordingTimes:
    """Seconds a record.

    Attributes:
        caller: Median that the caller waits, at a pace at which the disk keeps up.
        p99: The same for the slowest in a hundred.
        burst: Mean that the caller waits when thousands come at once.
        whole: Mean from the first to the last on the disk, in such a burst.
    """

    caller: float
    p99: float
    burst: float
    whole: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


def bench_recording(*, records: int = 2_000) -> dict[str, RecordingTimes]:
    """Time records of an answer of 120 words.

    Args:
        records: How many are given one at a time.

    Returns:
        Kind of place -> times.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for where in ("file.jsonl", "folder", "database.db", "redacted.jsonl"):
            redact = _redact if where.startswith("redacted") else None
            recorder = Recorder(Path(folder) / where, redact=redact)
            found[where] = _times(recorder, records)
            recorder.close()
    return found


def _redact(text: str) -> str:
    return text.replace("bad", "***")


def _times(recorder: Recorder, records: int) -> RecordingTimes:
    given = Correction("What is it?", _TEXT, _TEXT.replace("bad", "good"), "corrected")
    waits = []
    for number in range(records):
        started = time.perf_counter()
        recorder(given)
        waits.append(time.perf_counter() - started)
        if number % 10 == 9:
            time.sleep(0.002)
    recorder.flush()
    started = time.perf_counter()
    for _ in range(_BURST):
        recorder(given)
    burst = time.perf_counter() - started
    recorder.flush()
    whole = time.perf_counter() - started
    waits.sort()
    return RecordingTimes(
        caller=statistics.median(waits),
        p99=waits[int(0.99 * (len(waits) - 1))],
        burst=burst / _BURST,
        whole=whole / _BURST,
    )
