"""From records to a folder that `datasets.load_dataset` reads: rows in each format, statistics, and a data card.

The folder is written whole or not at all, readable by its owner only. What lives elsewhere: which records are left out (`filters.py`), what a row is
(`formats.py`), and putting a folder on the Hub (`hub.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aligner_integrations._version import __version__
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording.records import Record
from aligner_integrations.training.preferences.filters import Filtered, Filters
from aligner_integrations.training.preferences.formats import FORMATS, rows_of

STATISTICS_FILE = "statistics.json"


@dataclass(slots=True)
class Statistics:
    """What is in an export.

    Attributes:
        records: How many were read, and how many of what was read are no records.
        left_out: Why -> how many.
        outcomes: Outcome -> how many of those that are left.
        rows: Format -> split -> how many rows.
        aligners: Who corrected -> how many of those that are left.
        characters: Median length of question, answer and correction.
        changed_share: Median share of an answer that its correction changes, of those that do.
        first: Time of the first record that is left, and `last` of the last.
    """

    records: int = 0
    damaged: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    aligners: dict[str, int] = field(default_factory=dict)
    characters: dict[str, float] = field(default_factory=dict)
    changed_share: float | None = None
    first: str | None = None
    last: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def export(
    records: Iterable[Record],
    output: Path,
    *,
    filters: Filters = Filters(),
    formats: Sequence[str] = FORMATS,
    conversational: bool = False,
    test_share: float = 0.0,
    damaged: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Statistics:
    """Write records as data sets.

    Args:
        records: The records.
        output: The folder; there must be none, or an empty one.
        filters: What is left out.
        formats: Which data sets are written.
        conversational: Texts as messages instead of strings.
        test_share: Share of the questions that is held back, in a split of its own.
        damaged: Places of what was no record.
        notes: Further paragraphs for the card, such as the licence.

    Raises:
        ConfigurationError: The folder holds something, an option makes no sense, or nothing is left to learn from.
    """
    if unknown := set(formats) - set(FORMATS):
        raise ConfigurationError(f"There is no format {unknown.pop()!r}; they are {', '.join(FORMATS)}.")
    if not 0 <= test_share < 1:
        raise ConfigurationError(f"The share held back is {test_share}; it is at least 0 and below 1.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"{output} is there already, and not empty. Name another folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as name:
        folder = Path(name)
        found = _write_rows(folder, records, filters, formats, conversational=conversational, test_share=test_share)
        found.damaged = len(damaged)
        if not sum(found.outcomes.values()):
            raise ConfigurationError(_nothing_left(found))
        _write(folder / STATISTICS_FILE, json.dumps(found.to_dict(), indent=1))
        _write(folder / "README.md", card(found, conversational=conversational, filters=filters, notes=notes))
        if output.exists():
            output.rmdir()
        folder.rename(output)
        folder.mkdir()  # for the context manager to remove
    return found


def _write_rows(
    folder: Path,
    records: Iterable[Record],
    filters: Filters,
    formats: Sequence[str],
    *,
    conversational: bool,
    test_share: float,
) -> Statistics:
    found, filtered = Statistics(), Filtered()
    lengths: dict[str, list[int]] = {"question": [], "answer": [], "correction": []}
    changed: list[float] = []
    outcomes, aligners = Counter[str](), Counter[str]()
    files: dict[tuple[str, str], Any] = {}
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in formats}
    times: list[float] = []

    def counted() -> Iterable[Record]:
        for record in records:
            found.records += 1
            yield record

    try:
        for record in filtered.take(counted(), filters):
            correction = record.correction
            split = "test" if _share_of(correction.question) < test_share else "train"
            for kind in formats:
                for row in rows_of(correction, kind, conversational=conversational):
                    if (kind, split) not in files:
                        files[kind, split] = _open(folder / f"{kind}.{split}.jsonl")
                    files[kind, split].write(json.dumps(row, ensure_ascii=False) + "\n")
                    rows[kind][split] += 1
            texts = (correction.question, correction.answer, correction.text)
            for name, text in zip(lengths, texts, strict=True):
                lengths[name].append(len(text))
            outcomes[correction.outcome] += 1
            aligners[record.model or record.aligner or "unnamed"] += 1
            times.append(record.time)
            if correction.changed and len(changed) < 2_000:  # a diff may take a while
                changed.append(correction.diff().changed_share)
    finally:
        for file in files.values():
            file.close()
    found.left_out = dict(sorted(filtered.left_out.items(), key=lambda item: -item[1]))
    found.outcomes, found.aligners = dict(outcomes), dict(aligners.most_common())
    found.rows = {kind: dict(splits) for kind, splits in rows.items() if splits}
    if times:
        found.characters = {name: statistics.median(values) for name, values in lengths.items()}
        found.first, found.last = (datetime.fromtimestamp(t, UTC).isoformat() for t in (min(times), max(times)))
    found.changed_share = statistics.median(changed) if changed else None
    return found


def _share_of(question: str) -> float:
    """Where a question stands between 0 and 1: the same in each export, so that what is held back stays so."""
    return int.from_bytes(hashlib.sha256(question.strip().casefold().encode()).digest()[:8], "big") / 2**64


def _nothing_left(found: Statistics) -> str:
    why = ", ".join(f"{count} {name}" for name, count in found.left_out.items()) or "there are none"
    return f"Of {found.records} records none is left to learn from ({why})."


def _open(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")


def _write(path: Path, text: str) -> None:
    with _open(path) as file:
        file.write(text)


# The card -----------------------------------------------------------------------------------------------------------


def card(found: Statistics, *, conversational: bool, filters: Filters, notes: Sequence[str] = ()) -> str:
    """Return the data card; its head tells the Hub and `datasets` which files are which data set."""
    head = ["---", "configs:"]
    for kind, splits in found.rows.items():
        head += [f"- config_name: {kind}", "  data_files:"]
        for split in splits:
            head += [f"  - split: {split}", f"    path: {kind}.{split}.jsonl"]
    head += ["tags: [aligner, correction, preference]", "---", ""]
    lines = ["# Corrections as training data", ""]
    lines += [
        "Answers of language models and what an [aligner](https://arxiv.org/abs/2402.02416) made of them, recorded by "
        f"`Aligner(record=...)` of aligner-integrations {__version__}. The corrections are a model's, not a person's.",
        "",
    ]
    for note in notes:
        lines += [note, ""]
    lines += ["| data set | rows | what for |", "|---|---:|---|"]
    purposes = {
        "preference": "TRL's DPOTrainer and RewardTrainer: the correction is chosen, the answer rejected",
        "kto": "TRL's KTOTrainer",
        "sft": "TRL's SFTTrainer, for the upstream: corrections, and answers that were left alone",
        "triples": "`aligner train`, for another aligner; answers that were left alone are identity pairs",
    }
    for kind, splits in found.rows.items():
        counts = ", ".join(f"{count:,} {split}" for split, count in splits.items())
        lines.append(f"| `{kind}` | {counts} | {purposes[kind]} |")
    lines += [
        "",
        f"Texts are {'messages' if conversational else 'plain strings'}: `load_dataset(FOLDER, 'preference')`.",
        "",
    ]
    lines += ["## What was left out", "", f"Of {found.records:,} records {sum(found.outcomes.values()):,} are left."]
    lines += [f"- {count:,}: {why}" for why, count in found.left_out.items()]
    lines += [f"- {found.damaged:,} lines were no records"] if found.damaged else []
    lines += [
        "",
        f"Near duplicates share {filters.resemblance:.0%} of their runs of four words; too long is above {filters.max_characters:,} "
        "characters of question, answer and correction.",
        "",
        "## What is in it",
        "",
    ]
    lines += [f"- {count:,} {outcome}" for outcome, count in found.outcomes.items()]
    lines += [f"- corrected by {name}: {count:,}" for name, count in found.aligners.items()]
    lines += [f"- median {name}: {number:,.0f} characters" for name, number in found.characters.items()]
    if found.changed_share is not None:
        lines.append(f"- a correction changes {found.changed_share:.0%} of its answer (median)")
    lines += [f"- made from {found.first} to {found.last}"]
    return "\n".join([*head, *lines]) + "\n"
