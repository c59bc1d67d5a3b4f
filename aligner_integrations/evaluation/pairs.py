"""Rows to be judged: read, and where an answer or a correction is missing, made by an upstream or an aligner, each once.

A row has a question; an answer, or an upstream gives it; a correction, or an aligner makes it. What was made is kept (`asked.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError
from aligner_integrations.evaluation import corrected
from aligner_integrations.evaluation.asked import Kept, Model, Said, ask, key_of
from aligner_integrations.evaluation.win_rate import Pair

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

_TEXTS = ("question", "answer", "correction")


@dataclass(frozen=True, slots=True)
class Pairs:
    """What can be judged, and what is missing.

    Attributes:
        pairs: Answers with their corrections.
        missing: Rows that could not be made, by type of error: "answer: BackendError" and the like.
    """

    pairs: list[Pair]
    missing: dict[str, int] = field(default_factory=dict)


def read_pairs(records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Check rows: a question each, and text where there is an answer, a correction or references.

    Raises:
        ConfigurationError: A row does not fit; the message says which.
    """
    found = []
    for place, row in records:
        if "question" not in row:
            raise ConfigurationError(f"{place}: it has no question; its columns are {sorted(row)}.")
        texts = {name: row[name] for name in _TEXTS if row.get(name) is not None}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise ConfigurationError(f"{place}: its {name} is {type(value).__name__}, not text.")
        references = {name: _references(row, name, place) for name in ("correct", "incorrect")}
        score = row.get("score")
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise ConfigurationError(f"{place}: its score is {score!r}, not a number.")
        found.append({**texts, **references, "score": score})
    return found


def make_pairs(
    rows: Sequence[Mapping[str, Any]],
    kept: Kept,
    *,
    upstream: Model | None = None,
    aligner: Aligner | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> Pairs:
    """Make what is missing.

    Args:
        rows: What `read_pairs` gave.
        kept: Where answers and corrections are kept.
        upstream: Who answers; None: each row brings its answer.
        aligner: Who corrects; None: each row brings its correction.
        on_progress: Called with "answers" or "corrections" and how many are there.

    Raises:
        ConfigurationError: A row brings no answer or no correction, and nobody is there to make it.
    """
    missing: Counter[str] = Counter()
    answered: list[dict[str, Any]] = [dict(row) for row in rows]
    if upstream is not None:
        done = None if on_progress is None else (lambda count: on_progress("answers", count))
        replies = ask(upstream, [("", row["question"]) for row in rows], kept, on_progress=done)
        answered = []
        for row, reply in zip(rows, replies, strict=True):
            if isinstance(reply, Said) and reply.text.strip():
                answered.append({**row, "answer": reply.text})
            else:
                missing[f"answer: {type(reply).__name__ if isinstance(reply, AlignerError) else 'empty'}"] += 1
    _require(answered, "answer", "name an upstream that gives it")
    if aligner is not None:
        done = None if on_progress is None else (lambda count: on_progress("corrections", count))
        answered = _corrected(answered, kept, aligner, missing, done)
    _require(answered, "correction", "name an aligner that makes it")
    return Pairs([Pair(**row) for row in answered], dict(missing))


def _corrected(
    rows: Sequence[dict[str, Any]],
    kept: Kept,
    aligner: Aligner,
    missing: Counter[str],
    on_progress: Callable[[int], None] | None,
) -> list[dict[str, Any]]:
    keys = [key_of("correction", aligner.fingerprint, row["question"], row["answer"]) for row in rows]
    new = [i for i, key in enumerate(keys) if kept.get(key) is None]
    for start in range(0, len(new), corrected.CHUNK):
        part = new[start : start + corrected.CHUNK]
        pairs = [(rows[i]["question"], rows[i]["answer"]) for i in part]
        made = corrected.run(aligner, pairs)
        scores = corrected.gate_scores(aligner, pairs)
        for i, result, score in zip(part, made.results, scores, strict=True):
            if isinstance(result, Correction) and result.outcome != "failed":
                kept.put(keys[i], {"correction": result.text, "score": score})
            else:
                missing[f"correction: {corrected.failure_of(result)}"] += 1
        if on_progress is not None:
            on_progress(len(rows) - len(new) + start + len(part))
    found = []
    for row, key in zip(rows, keys, strict=True):
        if (value := kept.get(key)) is not None:
            found.append({**row, "correction": value["correction"], "score": value["score"]})
    return found


def _require(rows: Sequence[Mapping[str, Any]], name: str, otherwise: str) -> None:
    if bare := sum(name not in row for row in rows):
        raise ConfigurationError(f"{bare} of {len(rows)} rows have no {name}: bring one, or {otherwise}.")


def _references(row: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    value = row.get(name) or ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ConfigurationError(f"{place}: its {name} is no list of texts.")
    return tuple(value)
