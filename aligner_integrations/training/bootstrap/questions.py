"""What is asked: fresh questions for each round, those that are held out to measure on, and what measures fluency."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import read_jsonl


class Question(NamedTuple):
    """One question.

    Attributes:
        text: What is asked.
        reference: A person's answer, for the arm that learns from these; empty if there is none.
        group: What it was made from; questions of one group are held out together.
    """

    text: str
    reference: str = ""
    group: str = ""


class GoodAnswer(NamedTuple):
    """A question and a good answer to it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Material:
    """All that a bootstrap asks and measures with.

    Attributes:
        fresh: Questions to learn from, in order; each is asked once.
        held_out: Questions that are measured on, and never learnt from.
        good: Good answers that are mixed in.
        fluent: Good answers whose perplexity is measured; never learnt from.
        neutral: Sentences that the upstream is asked to copy.
    """

    fresh: Sequence[Question]
    held_out: Sequence[Question]
    good: Sequence[GoodAnswer] = ()
    fluent: Sequence[GoodAnswer] = ()
    neutral: Sequence[str] = ()


def read_material(
    questions: Path, *, held_out: int, good: Path | None = None, neutral: Path | None = None, fluent: int = 50
) -> Material:
    """Read what is asked, and split it: in the same way whenever it is read.

    Args:
        questions: Rows `{"question"}`, with a "reference" (a person's answer) and a "group" if there are.
        held_out: How many questions are held out, by whole groups.
        good: Rows `{"question", "answer"}` of good answers.
        neutral: Rows `{"text"}` of sentences to copy.
        fluent: How many of the good answers only measure.

    Raises:
        ConfigurationError: A file cannot be read, or holds too little.
    """
    rows = {row.text: row for row in (_question(questions, n, row) for n, row in read_jsonl(questions))}
    groups: dict[str, list[Question]] = {}
    for row in rows.values():
        groups.setdefault(row.group or row.text, []).append(row)
    out: list[Question] = []
    fresh: list[Question] = []
    for name in sorted(groups, key=_place):
        (out if len(out) < held_out else fresh).extend(groups[name])
    if not fresh or not out:
        raise ConfigurationError(f"{questions} holds {len(rows)} questions, too few to hold {held_out} of them out.")
    answers = (
        []
        if good is None
        else sorted({_good(good, n, row) for n, row in read_jsonl(good)}, key=lambda g: _place(g.question))
    )
    asked = {answer.question for answer in answers[:fluent]}
    learnt = [answer for answer in answers[fluent:] if answer.question not in asked]
    sentences = [] if neutral is None else [_text(neutral, n, row, "text") for n, row in read_jsonl(neutral)]
    return Material(fresh, out, learnt, answers[:fluent], sentences)


def _place(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _question(path: Path, number: int, row: Mapping[str, Any]) -> Question:
    more = [row.get(name, "") for name in ("reference", "group")]
    if not all(isinstance(value, str) for value in more):
        raise ConfigurationError(f"{path}, line {number}: its reference or group is not text.")
    return Question(_text(path, number, row, "question"), *more)


def _good(path: Path, number: int, row: Mapping[str, Any]) -> GoodAnswer:
    return GoodAnswer(_text(path, number, row, "question"), _text(path, number, row, "answer"))


def _text(path: Path, number: int, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{path}, line {number}: it has no {name}.")
    return value
