"""Corrections on disk: `Aligner(record="corrections.jsonl")`, or a `Recorder` with options, and reading them again.

`recorder.py` takes corrections and never keeps a caller waiting, `lines.py` and `database.py` put them on the disk, `records.py` is
what a record is and reads them, `requests.py` says which request a correction belongs to. What is made of them: `training/preferences/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligner_integrations._lazy import lazy

if TYPE_CHECKING:
    from aligner_integrations.recording.recorder import Recorder
    from aligner_integrations.recording.records import Record, read_records
    from aligner_integrations.recording.requests import for_request

__all__ = ["Record", "Recorder", "for_request", "read_records"]

__getattr__ = lazy(
    __name__,
    {
        "Record": "aligner_integrations.recording.records",
        "Recorder": "aligner_integrations.recording.recorder",
        "for_request": "aligner_integrations.recording.requests",
        "read_records": "aligner_integrations.recording.records",
    },
)


def __dir__() -> list[str]:
    """Public names."""
    return __all__
