"""The result of one correction, and what changed in it. Frozen values only."""

from __future__ import annotations

import dataclasses
import difflib
import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from aligner_integrations.errors import ConfigurationError

Outcome = Literal["kept", "corrected", "rejected", "skipped", "failed"]
"""kept: the aligner leaves the answer alone. corrected: `text` is the correction. rejected: `accept` refused it.
skipped: the answer must not be aligned. failed: an error, answered by `on_error` or `on_overflow`."""

_Kind = Literal["equal", "delete", "insert"]
_Words = list[str]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# The same with the white space after each word: every other item would be a space otherwise, each of which difflib
# compares with each, and 4,000 words would take 20 seconds.
_SPACED_WORDS = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
# difflib is quadratic at worst; beyond this many words the common head and tail are cut off and the rest is one change.
_MAX_DIFF_WORDS = 10_000
# Of more equal pairs of words than this, the frequent words alone begin no match.
_MAX_PAIRS = 100_000
# A change of more words than this is shown as one, not word by word.
_MAX_CHANGE_WORDS = 100

# Translucent, so that the page's own colour and that of its letters stay readable whatever they are; struck out and underlined,
# for those who cannot tell the colours.
_HTML = {
    "equal": "{}",
    "delete": '<del style="background: rgba(248, 81, 73, 0.25); text-decoration: line-through">{}</del>',
    "insert": '<ins style="background: rgba(46, 160, 67, 0.25); text-decoration: underline">{}</ins>',
}


@dataclass(frozen=True, slots=True)
class Edit:
    """One piece of a diff: text that stayed (`"equal"`), went (`"delete"`) or came (`"insert"`)."""

    kind: _Kind
    text: str


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed between an answer and its correction, by words."""

    edits: tuple[Edit, ...]

    def __iter__(self) -> Iterator[Edit]:
        """Iterate over the edits in reading order."""
        return iter(self.edits)

    def __str__(self) -> str:
        """Render as plain text: `[-gone-]`, `{+new+}`."""
        marks = {"equal": "{}", "delete": "[-{}-]", "insert": "{{+{}+}}"}
        return "".join(marks[edit.kind].format(edit.text) for edit in self.edits)

    def to_html(self) -> str:
        """Render as escaped HTML with `<del>` and `<ins>`, coloured so that it reads on light and on dark pages."""
        return "".join(_HTML[edit.kind].format(html.escape(edit.text)) for edit in self.edits)

    def _repr_html_(self) -> str:
        """Shown by notebooks."""
        return f'<div style="white-space: pre-wrap">{self.to_html()}</div>'

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shown by IPython in a terminal, and kept by notebooks beside the colours."""
        printer.text(str(self))

    @property
    def changed_share(self) -> float:
        """Share of characters that went or came, from 0 (equal) to 1 (nothing in common)."""
        stayed = changed = 0
        for edit in self.edits:
            if edit.kind == "equal":
                stayed += len(edit.text)
            else:
                changed += len(edit.text)
        return changed / (2 * stayed + changed) if self.edits else 0.0


def diff_words(before: str, after: str) -> Diff:
    """Return the difference of two texts by words, white space and punctuation marks."""
    if before == after:
        return Diff((Edit("equal", before),) if before else ())
    a, b = _SPACED_WORDS.findall(before), _SPACED_WORDS.findall(after)
    head, tail = _alike(a, b)
    pieces = [("equal", a[:head]), *_compare(a[head : len(a) - tail], b[head : len(b) - tail])]
    return Diff(tuple(_joined([*pieces, ("equal", a[len(a) - tail :])])))


def _alike(a: list[str], b: list[str]) -> tuple[int, int]:
    """Return how many words two lists have in common at their beginning, and how many of the others at their end."""
    head, tail, shorter = 0, 0, min(len(a), len(b))
    while head < shorter and a[head] == b[head]:
        head += 1
    while tail < shorter - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    return head, tail


def _compare(a: _Words, b: _Words) -> Iterator[tuple[_Kind, _Words]]:
    """Compare by words with their white space, then each change by words and white space alone."""
    if len(a) + len(b) > _MAX_DIFF_WORDS:
        yield from (("delete", a), ("insert", b))
        return
    for same, gone, new in _changes(a, b):
        yield "equal", same
        if len(gone) + len(new) > _MAX_CHANGE_WORDS:
            yield from (("delete", gone), ("insert", new))
            continue
        for within, less, more in _changes(_WORDS.findall("".join(gone)), _WORDS.findall("".join(new))):
            yield from (("equal", within), ("delete", less), ("insert", more))


def _changes(a: _Words, b: _Words) -> Iterator[tuple[_Words, _Words, _Words]]:
    """Yield what is the same, and what is gone and new behind it."""
    head, tail = _alike(a, b)
    gone, new = a[head : len(a) - tail], b[head : len(b) - tail]
    if set(gone).isdisjoint(b) and set(new).isdisjoint(a):  # difflib comes to the same, and takes ten times as long
        yield from ((a[:head], gone, new), (a[len(a) - tail :], [], []))
        return
    counts = Counter(b)
    autojunk = sum(counts[word] for word in a) > _MAX_PAIRS
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=autojunk).get_opcodes():
        yield (a[i1:i2], [], []) if tag == "equal" else ([], a[i1:i2], b[j1:j2])


def _joined(pieces: Iterable[tuple[_Kind, _Words]]) -> Iterator[Edit]:
    """Drop empty pieces and join neighbours of one kind."""
    kind: _Kind = "equal"
    joined: _Words = []
    for its_kind, words in pieces:
        if words and joined and its_kind != kind:
            yield Edit(kind, "".join(joined))
            joined = []
        if words:
            kind = its_kind
            joined += words
    if joined:
        yield Edit(kind, "".join(joined))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens the aligner read and wrote over all rounds."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Add two counts."""
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Correction:
    """One question, one answer, and what the aligner made of it.

    Attributes:
        question: The user's words.
        answer: The upstream's answer, as it came.
        text: The text to show from now on.
        outcome: What happened; see `Outcome`.
        reason: Why the answer was kept, skipped, rejected or failed; `"declined"` if the correction refuses what the answer did,
            and keeps nothing of it; None for a plain correction.
        rounds: How many corrections the aligner wrote (0 if the gate or a skip answered first).
        usage: Tokens read and written.
        seconds: Wall-clock time of this correction; in a batch, of the whole batch. The first one waits for the weights, unless they
            are loaded before (`Aligner.load`).
        score: What the gate compares with its threshold, of the text that the last round began with; None where nothing was
            judged, or where it is infinite.
        objections: What the aligner's gate objects to in the answer: `"rude"` words, `"hateful"` (it insults, threatens or hates),
            `"harmful"` (it helps with harm); none if it has no such gate, or if nothing was found.
    """

    question: str
    answer: str
    text: str
    outcome: Outcome
    reason: str | None = None
    rounds: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    score: float | None = None
    objections: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the text differs from the answer."""
        return self.text != self.answer

    @property
    def blocked(self) -> bool:
        """Whether the text is the block message in place of the answer."""
        return self.changed and self.outcome in ("rejected", "failed")

    def diff(self) -> Diff:
        """Return what changed, by words."""
        return diff_words(self.answer, self.text)

    def _repr_html_(self) -> str:
        """Shown by notebooks: what happened, and what changed in the text."""
        why = f" ({self.reason})" if self.reason else ""
        head = html.escape(f"{self.outcome}{why}, {self.seconds:.1f} s")
        return f'<div style="opacity: 0.7; font-size: smaller">{head}</div>{self.diff()._repr_html_()}'

    def record(self, *, include_original: bool = False) -> dict[str, Any]:
        """Return the record that travels with a message: never the original text unless asked for."""
        reason = self.reason
        if self.outcome == "failed" and reason and not include_original:
            reason = reason.partition(":")[0]  # the error's class; its message may quote what it failed on
        data: dict[str, Any] = {
            "outcome": self.outcome,
            "reason": reason,
            "changed_share": round(self.diff().changed_share, 4),
            "rounds": self.rounds,
            "seconds": round(self.seconds, 4),
        }
        if self.objections:
            data["objections"] = list(self.objections)
        if include_original:
            data["original"] = self.answer
        return data

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Correction:
        """Read what `to_dict` wrote.

        Raises:
            ConfigurationError: A field is missing, unknown or of the wrong kind.
        """
        try:
            values = dict(data)
            values["usage"] = Usage(**values.get("usage", {}))
            values["objections"] = tuple(values.get("objections", ()))
            correction = cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"This is not a stored correction: {error}") from error
        if not all(isinstance(text, str) for text in (correction.question, correction.answer, correction.text)):
            raise ConfigurationError("This is not a stored correction: question, answer and text must be strings.")
        if correction.outcome not in get_args(Outcome):
            raise ConfigurationError(
                f"A correction's outcome is one of {get_args(Outcome)}, got {correction.outcome!r}."
            )
        return correction
