"""Citation markers in an answer and its correction: `[1]`, `[1, 2]`, `[citation:id]`, `【1†source】`.

An aligner knows no sources, so it loses, moves and invents markers. A marker may stand only on a sentence that still
says what the cited sentence said; to drop one is safe, to keep it on a changed claim is not. All of this is by words,
so that it is quick and can be followed; it is no proof that two sentences mean the same.

What lives elsewhere: when citations are looked after at all (`correcting.py`).
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from aligner_integrations.errors import RejectedCorrectionError

Citations = Literal["keep", "drop", "original_if_lost"]
"""keep: markers stay on sentences that still say the same. drop: the correction has none. original_if_lost: as keep,
and a correction that loses one is rejected, so the aligner's `on_reject` says what is shown (the answer by default)."""

# Not a link, `[1](url)`. The white space before a marker goes with it.
_MARKER = re.compile(
    r"[ \t]*(\[\^?\d{1,3}(?:\s*[,;]\s*\^?\d{1,3})*\](?!\()|\[citation:[^\]\s]{1,100}\](?!\()|【[^】\n]{1,100}】)"
)
# What may still become a marker, at the end of a text that goes on. A closed one may still become a link.
_BEGUN = re.compile(r"\s*(?:[\[【][^\]】\n]{0,110}\]?)?\Z")
# A sentence ends at its punctuation and the markers after it, or at the end of the line.
_SENTENCE_END = re.compile(rf"(?:(?<=[.!?])|(?<=[.!?][\"')”’]))(?:{_MARKER.pattern})*(?=\s|\Z)|(?=\n)")
_WORD = re.compile(r"\w+(?:['’]\w+)?")
_NEGATIONS = frozenset({"no", "not", "never", "none", "nor", "neither", "without", "cannot", "hardly"})

# How much of the new sentence must have been in the old one, and how much of the old one must be left. One word in
# five replaced is already another claim ("It is a bad idea"); taking out words up to two in five is not.
_MIN_OLD_IN_NEW = 0.8
_MIN_LEFT_OF_OLD = 0.6


def cited(text: str) -> list[str]:
    """Return each thing that a text cites, once and in order: `[1, 2]` cites `[1]` and `[2]`. Code cites nothing."""
    return list(dict.fromkeys(one for match in _markers(text) for one in _things(match)))


def lost(answer: str, text: str) -> list[str]:
    """Return what the answer cites and the text does not."""
    left = set(cited(text))
    return [one for one in cited(answer) if one not in left]


def without_citations(text: str) -> str:
    """Return a text without its markers."""
    pieces, end = [], 0
    for match in _markers(text):
        pieces.append(text[end : match.start()])
        end = match.end()
    return "".join([*pieces, text[end:]])


def carry_citations(answer: str, correction: str, mode: Citations = "keep") -> str:
    """Return the correction with the answer's markers on the sentences that still say the same, and no others.

    Args:
        answer: The upstream's answer.
        correction: What the aligner made of it.
        mode: What to do with the markers; see `Citations`.

    Raises:
        RejectedCorrectionError: `mode` is "original_if_lost" and a marker has no sentence any more.
    """
    if mode == "drop":
        return without_citations(correction)
    sentences = [_Cited.of(sentence) for sentence in _sentences(answer)]
    sources = [sentence for sentence in sentences if sentence.things]
    unmarked = {tuple(sentence.words) for sentence in sentences if not sentence.things}
    text = "".join(_carry(sentence, sources, unmarked) for sentence in _sentences(correction))
    if mode == "original_if_lost" and (gone := lost(answer, text)):
        raise RejectedCorrectionError(
            f"The correction has lost the citations {', '.join(gone)}. Set on_reject, or citations='keep'."
        )
    return text


class CitationFilter:
    """Takes markers out of a text that comes in pieces: for answers that cite nothing, where every marker is invented.

    Holds back what may still become a marker, and nothing else.
    """

    def __init__(self) -> None:
        self._all = ""
        self._done = 0  # how much of it was given out or taken out
        self.dropped = False

    def feed(self, piece: str) -> str:
        """Take a piece; return what can be shown now."""
        self._all += piece
        begun = _BEGUN.search(self._all, self._done)
        return self._up_to(begun.start() if begun else len(self._all))

    def end(self) -> str:
        """Return what is left to show."""
        return self._up_to(len(self._all))

    def _up_to(self, end: int) -> str:
        pieces = []
        for match in _markers(self._all[:end], self._done):
            pieces.append(self._all[self._done : match.start()])
            self._done = match.end()
            self.dropped = True
        pieces.append(self._all[self._done : end])
        self._done = end
        return "".join(pieces)


class _Cited(NamedTuple):
    """A sentence: its words, those that make the claim, the things it cites, and its markers as they were written."""

    words: list[str]
    facts: list[str]
    things: set[str]
    markers: str
    after_the_full_stop: bool

    @classmethod
    def of(cls, sentence: str) -> _Cited:
        markers = _markers(sentence)
        things = {one for match in markers for one in _things(match)}
        words = _WORD.findall(without_citations(sentence).lower())
        before = sentence[: markers[0].start()] if markers else ""
        return cls(
            words, _facts(words), things, "".join(match[0] for match in markers), before.endswith((".", "!", "?"))
        )


def _carry(sentence: str, sources: list[_Cited], unmarked: set[tuple[str, ...]]) -> str:
    """Give one sentence of the correction the markers of the sentence that it still is, or none."""
    new = _Cited.of(sentence)
    old = None if not new.words or tuple(new.words) in unmarked else _same(new, sources)
    if old is None:
        return without_citations(sentence)
    if new.things == old.things:
        return sentence  # the aligner left them where they belong
    bare = without_citations(sentence)
    body = bare.rstrip()
    space = bare[len(body) :]
    core = body.rstrip(".!?") if not old.after_the_full_stop else body
    markers = old.markers if old.markers[:1] in (" ", "\t") or not core else f" {old.markers}"
    return core + markers + body[len(core) :] + space


def _same(new: _Cited, sources: Iterable[_Cited]) -> _Cited | None:
    """Return the cited sentence that a new sentence still is; the one with most words in common, if there are more."""
    best, most = None, 0
    for old in sources:
        if new.words == old.words:
            return old
        # Cheap bounds first, because long answers have many pairs of sentences.
        enough = max(most, _MIN_OLD_IN_NEW * len(new.words))
        if new.facts != old.facts or len(old.words) <= enough:
            continue
        if sum((Counter(new.words) & Counter(old.words)).values()) <= enough:
            continue
        blocks = difflib.SequenceMatcher(None, old.words, new.words, autojunk=False).get_matching_blocks()
        common = sum(block.size for block in blocks)
        if common > enough and common >= _MIN_LEFT_OF_OLD * len(old.words):
            best, most = old, common
    return best


def _facts(words: list[str]) -> list[str]:
    """Words that turn a claim into another one: numbers and negations."""
    return [
        "not" if word in _NEGATIONS or word.endswith(("n't", "n’t")) else word
        for word in words
        if word in _NEGATIONS or word.endswith(("n't", "n’t")) or any(map(str.isdigit, word))
    ]


def _sentences(text: str) -> list[str]:
    """Split a text into sentences with the white space after them; joined they are the text again."""
    pieces, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        if end > start:
            pieces.append(text[start:end])
            start = end
    return [*pieces, text[start:]] if start < len(text) else pieces


def _things(match: re.Match[str]) -> list[str]:
    marker = match[1]
    if marker.startswith(("[citation:", "【")):
        return [marker]
    return [f"[{number}]" for number in re.findall(r"\d+", marker)]


def _markers(text: str, start: int = 0) -> list[re.Match[str]]:
    """Find the markers outside of code: an odd number of backticks before one means that it is inside."""
    return [match for match in _MARKER.finditer(text, start) if text.count("`", 0, match.start()) % 2 == 0]
