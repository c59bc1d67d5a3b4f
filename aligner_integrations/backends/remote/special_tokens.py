"""Strings that a server would read as control tokens, made plain text for it and put back in what it writes.

A server that takes prompts as text looks for its special tokens in them, also where a user or a model wrote them:
`</s>` in an answer would end the prompt. A space after the first character breaks such a string up; a correction that
repeats the broken string gets the whole one back. (Leaving such answers uncorrected would invite them.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
        self.text = text
        self._whole: dict[str, str] = {}
        self._places = sorted(start for start, _ in found)
        self._pad = ""
        if not found:
            return
        strings = {text[start:end] for start, end in found}
        # A pad that makes no string which the text holds already, or putting back would change the writer's own words.
        for length in range(1, _LONGEST_PAD + 1):
            self._pad = " " * length
            whole = {string[0] + self._pad + string[1:]: string for string in strings}
            if not any(broken in text for broken in whole):
                self._whole = whole
                break
        pieces, last = [], 0
        for place in self._places:
            pieces += [text[last : place + 1], self._pad]
            last = place + 1
        self.text = "".join([*pieces, text[last:]])

    def position(self, sent: int) -> int:
        """Return where in the original text a position in the sent one is."""
        for place in self._places:
            if sent <= place + 1:
                break
            sent = max(place + 1, sent - len(self._pad))
        return sent

    def mend(self, text: str) -> str:
        """Return a completion with broken strings made whole again."""
        for broken, string in self._whole.items():
            text = text.replace(broken, string)
        return text

    def mender(self) -> Mender:
        """Return what does the same to a completion that comes in pieces."""
        return Mender(self._whole)


class Mender:
    """Makes broken strings whole in a stream; holds back only what may be the beginning of one."""

    def __init__(self, whole: dict[str, str]) -> None:
        self._whole = whole
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return what can be given out."""
        text = self._held + piece
        for broken, string in self._whole.items():
            text = text.replace(broken, string)
        start = min((self._begins(text, broken) for broken in self._whole), default=len(text))
        self._held = text[start:]
        return text[:start]

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begins(text: str, broken: str) -> int:
        """Where the end of the text may be the beginning of a broken string."""
        for length in range(min(len(broken) - 1, len(text)), 0, -1):
            if text.endswith(broken[:length]):
                return len(text) - length
        return len(text)


def _known(text: str) -> list[tuple[int, int]]:
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
