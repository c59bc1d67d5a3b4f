"""Strings that a server would read as control tokens, made plain text for it and put back in what it writes.

A server that takes prompts as text looks for its special tokens in them, also where a user or a model wrote them:
`</s>` in an answer would end the prompt. A space after the first character breaks such a string up; a correction that
repeats the broken string gets the whole one back. (Leaving such answers uncorrected would invite them.)
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

_NAMES = "s|unk|pad|bos|eos|mask|sep|cls|eod|sop|eop|reponame|filename|image|video|audio|unused[0-9]{1,4}"
_BRACKETED = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT)|ARGS|CALL_ID|THINK|PREFIX|MIDDLE|SUFFIX|"
    "IMG(?:_BREAK|_END)?|(?:BEGIN_)?AUDIO|PAD|CLS|SEP|g?MASK|UNK|BOS|EOS|control_[0-9]{1,4}"
)
_KNOWN = re.compile(
    r"<\|[^<>|\s]{1,60}\|>"  # <|im_end|>, <|eot_id|>, <|endoftext|>: most families
    r"|<｜[^<>｜\s]{1,60}｜>"  # DeepSeek
    rf"|</?(?i:{_NAMES})>"  # Llama 2, Mistral, T5, BERT; <s> is struck-out text in HTML, too
    r"|</?[A-Za-z]+(?:_[A-Za-z0-9]+)+>"  # <start_of_turn>, <fim_prefix>, <extra_id_0>; no HTML tag has an underscore
    rf"|\[/?(?:{_BRACKETED})\]"  # Mistral, BERT, GLM; not any [WORD], which is ordinary text
)
_LONGEST_PAD = 8


class Broken:
    """A text whose special-token strings are broken up.

    Args:
        text: A rendered prompt.
        specials: The special tokens of the model, where they are known; else those of all known families.

    Attributes:
        text: The text to send.
    """

    def __init__(self, text: str, specials: Iterable[str] | None = None) -> None:
        found = _known(text) if specials is None else _listed(text, specials)
        if not found:  # as nearly always
            self._mended, self._pad, self._pads, self.text = frozenset[str](), "", list[int](), text
            return
        strings = frozenset(text[start:end] for start, end in found)
        # A pad that makes no string which the text holds already, or putting back would change the writer's own words.
        pads = [" " * length for length in range(1, _LONGEST_PAD + 1)]
        pad = next((pad for pad in pads if Mender(strings, pad).mend(text) == text), None)
        self._mended = strings if pad is not None else frozenset()
        self._pad = pad or " " * _LONGEST_PAD
        places = sorted(start for start, _ in found)
        # Where the pads begin in the sent text.
        self._pads = [place + 1 + i * len(self._pad) for i, place in enumerate(places)]
        ends = [0, *(place + 1 for place in places), len(text)]
        self.text = self._pad.join(text[start:end] for start, end in pairwise(ends))

    def position(self, sent: int) -> int:
        """Return where in the original text a position in the sent one is."""
        before = bisect_left(self._pads, sent)
        if before == 0:
            return sent
        inside = min(sent - self._pads[before - 1], len(self._pad))
        return sent - (before - 1) * len(self._pad) - inside

    def mend(self, text: str) -> str:
        """Return a completion with broken strings made whole again."""
        return self.mender().mend(text) if self._mended else text

    def mender(self) -> Mender:
        """Return what does the same to a completion that comes in pieces."""
        return Mender(self._mended, self._pad)


class Mender:
    """Makes broken strings whole; in a stream it holds back only what may be the beginning of one.

    Args:
        strings: The strings that were broken up.
        pad: What stands after the first character of each.
    """

    def __init__(self, strings: frozenset[str], pad: str) -> None:
        self._strings = strings
        self._pad = pad
        self._lengths = {len(string) for string in strings}
        self._longest = max(self._lengths, default=0)
        firsts = "".join(re.escape(first) for first in {string[0] for string in strings})
        self._places = re.compile(f"[{firsts}](?={pad})") if strings else None
        self._held = ""

    def mend(self, text: str) -> str:
        """Return a text with broken strings made whole."""
        if self._places is None:
            return text
        # From the end, so that a string inside another one is whole by the time that one is looked at. And by looking up
        # what follows each pad: looking for each string in the text would take the square of the time.
        pieces, end, ahead = [], len(text), ""
        for match in reversed(list(self._places.finditer(text))):
            after = match.end() + len(self._pad)
            rest = (text[after : min(end, after + self._longest)] + ahead)[: self._longest]
            string = match[0] + rest
            if any(string[:length] in self._strings for length in self._lengths):
                pieces.append(text[after:end])
                end, ahead = match.end(), rest
        return "".join([text[:end], *reversed(pieces)])

    def feed(self, piece: str) -> str:
        """Take a piece; return what can be given out."""
        text = self.mend(self._held + piece)
        first = max(0, len(text) - self._longest - len(self._pad) + 1)
        start = next((i for i in range(first, len(text)) if text[i:] in self._beginnings), len(text))
        self._held = text[start:]
        return text[:start]

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    @cached_property
    def _beginnings(self) -> set[str]:
        broken = [string[0] + self._pad + string[1:] for string in self._strings]
        return {string[:length] for string in broken for length in range(1, len(string))}


def _known(text: str) -> list[tuple[int, int]]:
    if "<" not in text and "[" not in text:  # it is looked for at each letter, which takes its time
        return []
    found, position = [], 0
    while (match := _KNOWN.search(text, position)) is not None:
        found.append(match.span())
        position = match.start() + 1  # overlapping ones, too
    return found


def _listed(text: str, specials: Iterable[str]) -> list[tuple[int, int]]:
    # A string of one character cannot be broken up, and one with a space could be made by breaking another.
    usable = [special for special in set(specials) if len(special) > 1 and not any(c.isspace() for c in special)]
    ends: dict[int, int] = {}
    for special in usable:
        start = text.find(special)
        while start >= 0:
            ends[start] = max(ends.get(start, 0), start + len(special))
            start = text.find(special, start + 1)
    return sorted(ends.items())
