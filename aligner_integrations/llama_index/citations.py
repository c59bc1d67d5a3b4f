"""Citation markers in an answer and its correction: `[1]`, `[1, 2]`, `[1-3]`, `[citation:id]`, `【1†source】`.

An aligner knows no sources, so it loses, moves and invents markers. A marker may stand only on a sentence that still
says what the cited sentence said; to drop one is safe, to keep it on a changed claim is not. All of this is by words,
so that it is quick and can be followed; it is no proof that two sentences mean the same.

What lives elsewhere: when citations are looked after at all (`corrector.py`).
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, deque
from typing import Literal, NamedTuple

from aligner_integrations.errors import RejectedCorrectionError

Citations = Literal["keep", "drop", "original_if_lost"]
"""keep: markers stay on sentences that still say the same. drop: the correction has none. original_if_lost: as keep,
and a correction that loses one is rejected, so the aligner's `on_reject` says what is shown (the answer by default)."""

# Not a link, `[1](url)`. The white space before a marker goes with it. All is bounded, or starts where nothing longer does:
# texts of white space or brackets alone must not take quadratic time.
_MARKER = re.compile(
    r"(?<![ \t])[ \t]*("
    r"\[\^?\d{1,3}(?:[ \t]{0,3}[,;–-][ \t]{0,3}\^?\d{1,3}){0,30}\](?!\()"
    r"|\[citation:[^\]\s]{1,100}\](?!\()"
    r"|【[^】\n]{1,100}】)"
)
# What may still become a marker, at the end of a text that goes on. A closed one may still become a link.
_BEGUN = re.compile(r"(?<!\s)\s*(?:[\[【][^\]】\n]{0,250}\]?)?\Z")
# A sentence ends at its punctuation and the markers after it, or at the end of the line.
_SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?])|(?<=[.!?][\"')”’]))(?:{_MARKER.pattern})*(?=\s|\Z)|(?<=[。！？])(?:{_MARKER.pattern})*|(?=\n)"
)
_STOPS = ".!?:;。！？：；"
# Chinese and Japanese have no spaces: there each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’]\w+)?")
_NEGATIONS = frozenset({"no", "not", "never", "none", "nor", "neither", "without", "cannot", "hardly", *"不没無无未"})

# How much of the new sentence must have been in the old one, and how much of the old one must be left. One word in
# five replaced is already another claim ("It is a bad idea"); taking out words up to two in five is not.
_MIN_OLD_IN_NEW = 0.8
_MIN_LEFT_OF_OLD = 0.6

# Bounds of the search for the cited sentence that a changed one still is. Beyond them a marker is dropped, which is safe.
_MAX_WORDS = 200
_MAX_APART = 100
_MAX_COMPARED = 3


def cited(text: str) -> list[str]:
    """Return each thing that a text cites, once and in order: `[1, 2]` cites `[1]` and `[2]`. Code cites nothing."""
    return list(dict.fromkeys(one for match in _markers(text) for one in _things(match)))


def lost(answer: str, text: str) -> list[str]:
    """Return what the answer cites and the text does not."""
    left = set(cited(text))
    return [one for one in cited(answer) if one not in left]


def without_citations(text: str) -> str:
    """Return a text without its markers."""
    return _without(text, [match.span() for match in _markers(text)])


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
    sources, sentences = _Sources(answer), _sentences(correction)
    code = _Code(correction)
    text = "".join(
        _carry(new, sources.same(new, i / len(sentences)), code=code.at(new.end)) for i, new in enumerate(sentences)
    )
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
        for match in _markers(self._all, self._done, end):
            pieces.append(self._all[self._done : match.start()])
            self._done = match.end()
            self.dropped = True
        pieces.append(self._all[self._done : end])
        self._done = end
        return "".join(pieces)


class _Sentence(NamedTuple):
    """A sentence with the white space after it.

    Attributes:
        text: As it was written.
        bare: Without its markers.
        words: Its words, which make the claim.
        facts: Those of them that turn a claim into another one.
        things: What it cites.
        markers: Its markers as they were written.
        after_the_full_stop: Whether they stand there.
        end: Where its last word ends in the whole text.
    """

    text: str
    bare: str
    words: list[str]
    facts: list[str]
    things: set[str]
    markers: str
    after_the_full_stop: bool
    end: int

    @classmethod
    def of(cls, text: str, start: int, end: int, markers: list[re.Match[str]]) -> _Sentence:
        """Read a part of a text; the markers are those in it."""
        sentence = text[start:end]
        cuts = [(max(match.start() - start, 0), match.end() - start) for match in markers]
        bare = _without(sentence, cuts)
        words = _WORD.findall(bare.lower())
        return cls(
            sentence,
            bare,
            words,
            _facts(words),
            {one for match in markers for one in _things(match)},
            "".join(sentence[first:last] for first, last in cuts),
            bool(cuts) and sentence[: cuts[0][0]].endswith(tuple(_STOPS)),
            start + len(sentence.rstrip()),
        )


class _Sources:
    """The sentences of an answer, as those of its correction look for themselves in it."""

    def __init__(self, answer: str) -> None:
        self._all = _sentences(answer)
        self._equal: dict[tuple[str, ...], deque[_Sentence]] = {}
        for sentence in self._all:
            self._equal.setdefault(tuple(sentence.words), deque()).append(sentence)

    def same(self, new: _Sentence, where: float) -> _Sentence | None:
        """Return the sentence that a new one still is, at about this share of the text; None if there is none."""
        equal = self._equal.get(tuple(new.words), deque())
        if not new.words:  # only what stands alone can be the same
            return next((old for old in equal if old.things == new.things), None)
        if equal:
            return equal.popleft() if len(equal) > 1 else equal[0]  # one after the other, as they came
        if len(new.words) > _MAX_WORDS:
            return None
        words, middle = Counter(new.words), round(where * len(self._all))
        shared: list[tuple[int, _Sentence]] = []
        for old in self._all[max(0, middle - _MAX_APART) : middle + _MAX_APART]:
            if old.things and old.facts == new.facts and len(old.words) <= _MAX_WORDS:
                # Words in any order are counted quickly, and are never fewer than those in order: few are left to compare.
                enough = max(_MIN_OLD_IN_NEW * len(new.words), _MIN_LEFT_OF_OLD * len(old.words) - 1)
                if (common := (words & Counter(old.words)).total()) > enough:
                    shared.append((common, old))
        best, most = None, 0
        for _, old in sorted(shared, key=lambda pair: -pair[0])[:_MAX_COMPARED]:
            blocks = difflib.SequenceMatcher(None, old.words, new.words, autojunk=False).get_matching_blocks()
            common = sum(block.size for block in blocks)
            if common > max(most, _MIN_OLD_IN_NEW * len(new.words)) and common >= _MIN_LEFT_OF_OLD * len(old.words):
                best, most = old, common
        return best


def _carry(new: _Sentence, old: _Sentence | None, *, code: bool) -> str:
    """Give a sentence of a correction the markers of the sentence that it still is, or none; code is not added to."""
    if old is not None and new.things == old.things:
        return new.text  # the aligner left them where they belong
    # Any other marker of the aligner's is gone: it was moved or made up, and to cite wrongly is worse than not to cite.
    if old is None or not old.things or code:
        return new.bare
    # The answer's own stand as they stood there: behind the full stop, or before it.
    body = new.bare.rstrip()
    core = body if old.after_the_full_stop else body.rstrip(_STOPS)
    return core + old.markers + new.bare[len(core) :]


def _facts(words: list[str]) -> list[str]:
    """Words that turn a claim into another one: numbers and negations."""
    return [
        "not" if word in _NEGATIONS or word.endswith(("n't", "n’t")) else word
        for word in words
        if word in _NEGATIONS or word.endswith(("n't", "n’t")) or any(map(str.isdigit, word))
    ]


def _sentences(text: str) -> list[_Sentence]:
    """Split a text into sentences; joined they are the text again."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if end <= start:
            continue
        while end < len(text) and text[end].isspace():
            end += 1
        spans.append((start, end))
        start = end
    if start < len(text):
        spans.append((start, len(text)))
    markers = deque(_markers(text))
    sentences = []
    for start, end in spans:
        mine = []
        while markers and markers[0].start(1) < end:
            mine.append(markers.popleft())
        sentences.append(_Sentence.of(text, start, end, mine))
    return sentences


def _without(text: str, cuts: list[tuple[int, int]]) -> str:
    pieces, done = [], 0
    for start, end in cuts:
        pieces.append(text[done:start])
        done = end
    return "".join([*pieces, text[done:]])


def _things(match: re.Match[str]) -> list[str]:
    marker = match[1]
    if marker.startswith(("[citation:", "【")):
        return [marker]
    things: list[str] = []
    for first, last in re.findall(r"(\d+)(?:[ \t]*[–-][ \t]*\^?(\d+))?", marker):
        numbers = range(int(first), int(last or first) + 1)
        things += [f"[{number}]" for number in numbers] if 0 < len(numbers) <= 50 else [f"[{first}]", f"[{last}]"]
    return things


def _markers(text: str, start: int = 0, end: int | None = None) -> list[re.Match[str]]:
    """Find the markers outside of code."""
    found = list(_MARKER.finditer(text, start, len(text) if end is None else end))
    code = _Code(text)
    return [match for match in found if not code.at(match.start(1))]


class _Code:
    """Says of one place after the other whether it is in a fenced block, or after a backtick in its line.

    What comes after a place does not matter, because streams go on.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._any = "`" in text
        self._done = self._fences = self._ticks = 0

    def at(self, place: int) -> bool:
        if not self._any:
            return False
        self._fences += self._text.count("```", self._done, place)
        if (line := self._text.rfind("\n", self._done, place)) >= 0:
            self._done, self._ticks = line, 0
        self._ticks += self._text.count("`", self._done, place)
        self._done = place
        return self._fences % 2 == 1 or self._ticks % 2 == 1
