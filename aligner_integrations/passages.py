"""What an answer is made of, as far as correcting it goes: its words, its sentences, and what no edit may touch.

No parser of any markup: a text is read as it comes, once, and what looks like code is treated as code. What is made of it:
`guard.py`, `edits.py`.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

# Words are cut so that text can be taken word by word as it comes, however long a word is.
WORD = re.compile(r"\w{1,64}|[^\w\s]")

_PROTECTED = re.compile(
    r"""
      (?P<block>^[ \t]*(?P<fence>`{3,9}|(?<=\n\n)~{3,9})[^`\n]*\n.*?(?:^[ \t]*(?P=fence)|\Z))  # of code, in fences
    | (?P<indented>(?:(?<=\n\n)|\A)(?:(?:[ ]{4}|\t)[^\n]*(?:\n|\Z))+)         # one that is indented
    | ^[ \t]*\.\.[ ][^\n]*                                                    # a directive, or a target
    | (?P<code>(?P<ticks>`{1,3})[^`\n]+(?P=ticks)_?)                          # in a line
    | (?P<url>\b(?:https?|ftp|file)://[^\s<>"]*[^\s<>"'.,;:!?)\]])
    | (?P<www>\bwww\.[^\s<>"]*[^\s<>"'.,;:!?)\]])
    | (?P<email>(?<![\w.+-])[\w.+-]{1,64}@\w[\w-]*(?:\.\w[\w-]*)+)
    | </?[A-Za-z!][^<>]{0,500}>                                               # a tag, or a comment
    | !?\[(?=[^\[\]\n]{0,300}\][(\[])|\][(\[][^()\[\]\s]*[)\]]                # what is around the words of a link
    | \|                                                                      # a bar of a table
    | ^[ \t]*(?:[*+•-]|\d+[.)]|\#{1,6}|>+)(?=\s)                              # the mark of a list, heading or quotation
    | ^[ \t]*(?P<rule>[=~^"'\#*+:._-])(?P=rule){2,}[ \t]*$                    # what underlines a heading, or divides
    | (?P<number>(?<![\w.,])[+-]?\d+(?:[.,:/-]\d+)*%?(?!\w))
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_KINDS = {
    "block": "code",
    "indented": "code",
    "code": "code",
    "url": "URLs",
    "www": "URLs",
    "email": "addresses",
    "number": "numbers",
}

_BORDER = re.compile(
    r"""
      (?<=[^\s.!?…])(?<!^\d)(?<!^\d\d)[.!?…]+["'”’»)\]*_]*(?=\s)         # the end of a sentence
    | \n(?=[ \t]*\n)                                   # of a paragraph
    | \n(?=[ \t]*(?:[*+•>|-]|\d+[.)])\s)               # a list's next line, a quotation's
    | (?:\A|\n)(?=[ \t]*(?:[|\#=~^<]|```|---|\.\.[ ])) # a line of its own begins: table, heading, tag, fence, directive
    | ^[ \t]*(?:[|\#=~^<]|```|---|\.\.[ ])[^\n]*       # and ends
    """,
    re.VERBOSE | re.MULTILINE,
)


def details(text: str) -> Counter[tuple[str, str]]:
    """Return what a reader would copy from a text: how often each (kind, words) stands in it.

    Kinds are code, URLs, addresses and numbers; a number in code counts as code.
    """
    found = ((_KINDS.get(match.lastgroup or ""), match[0].strip()) for match in _PROTECTED.finditer(text))
    return Counter((kind, words) for kind, words in found if kind)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of words, by their numbers."""

    start: int
    end: int


class Passage:
    """The words of an answer.

    Args:
        text: The answer, without outer white space.

    Attributes:
        words: Its words and punctuation marks.
        starts: First character of each.
        ends: One past the last character of each.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        found = [(m[0], m.start(), m.end()) for m in WORD.finditer(text)]
        self.words = [word for word, _, _ in found]
        self.starts = [start for _, start, _ in found]
        self.ends = [end for _, _, end in found]

    def __len__(self) -> int:
        """Number of words."""
        return len(self.words)

    def gap(self, number: int) -> str:
        """Return the white space before a word."""
        return self.text[self.ends[number - 1] if number else 0 : self.starts[number]]

    @cached_property
    def sentences(self) -> list[Span]:
        """Its sentences, in their order; headings, rows of tables and the like are sentences of their own."""
        cuts = [0, *self._after(m.end() for m in _BORDER.finditer(self.text)), len(self)]
        return [Span(a, b) for a, b in pairwise(cuts) if a < b]

    @cached_property
    def begins(self) -> list[int]:
        """For each word, the first word of its sentence."""
        return [span.start for span in self.sentences for _ in range(span.start, span.end)]

    @cached_property
    def protected(self) -> list[Span]:
        """Code, addresses, numbers and markup, which an aligner that corrects prose has no business with."""
        return self.covering(m.span() for m in _PROTECTED.finditer(self.text))

    def covering(self, spans: Iterable[tuple[int, int]]) -> list[Span]:
        """Return the words that stretches of characters touch, in their order."""
        found = []
        number = 0
        for start, end in spans:
            while number < len(self) and self.ends[number] <= start:
                number += 1
            stop = number
            while stop < len(self) and self.starts[stop] < end:
                stop += 1
            if stop > number:
                found.append(Span(number, stop))
        return found

    def _after(self, places: Iterable[int]) -> list[int]:
        """For each place in the text, in their order, the number of the first word that begins there or later."""
        numbers, number = [], 0
        for place in places:
            while number < len(self) and self.starts[number] < place:
                number += 1
            numbers.append(number)
        return numbers


def between(places: Sequence[Span], start: int, end: int) -> Iterator[Span]:
    """The runs of words before, between and after places."""
    for place in places:
        yield Span(start, place.start)
        start = place.end
    yield Span(start, end)


def runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every so many words in a row."""
    return zip(*(words[start:] for start in range(length)), strict=False)


def in_line(gap: str, word: str) -> str:
    """A word so that the mark of a list is another one than a dash."""
    return f" {word}" if "\n" in gap and not word.isalnum() else word


def apart(words: list[str], runs: list[list[str]]) -> list[tuple[int, int]] | None:
    """Return what lies between runs of words that follow each other in a text; None if they do not.

    The first run has to be where the text begins, and the last one where it ends, if there is one.
    """
    text = "\n" + "\n".join(words) + "\n"
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word) + 1)
    cuts, at = [], 0
    for number, run in enumerate(runs):
        found, sought = starts[at], "\n" + "\n".join(run) + "\n"
        if number == len(runs) - 1:  # what it says may also be said before; at the end it is in its place
            at_end = len(text) - len(sought) if run else starts[-1]
            found = at_end if text.endswith(sought if run else "", found) else -1
        elif run:
            found = text.find(sought, found)
        if found < 0 or (number == 0 and found):
            return None
        start = bisect.bisect_left(starts, found)
        if number:
            cuts.append((at, start))
        at = start + len(run)
    return cuts
