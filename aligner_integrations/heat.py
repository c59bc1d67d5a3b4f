"""A text as HTML whose words are the redder the more somebody objects to them. What objects, and how much: `Score` and others."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_WORDS = re.compile(r"\s+|\S+")
_FAINTEST = 0.05
"""What is weaker is not coloured."""
# Translucent, so that it reads on light and on dark pages; underlined from one half on, for those who cannot tell the colours.
_STRONGEST = 0.55
_WORD = '<span title="{weight:.0%}" style="background: rgba(248, 81, 73, {alpha:.2f}){more}">{text}</span>'
_UNDERLINED = "; text-decoration: underline"


def heat(pieces: Iterable[tuple[int, str, float]]) -> str:
    """Return a text as escaped HTML, each word as red as its strongest piece.

    Args:
        pieces: (first character in the text, the piece, its weight from 0 to 1). Together they are the text; they may overlap, as
            tokens do that share a character. What is between two of them is shown as white space.
    """
    letters: list[str] = []
    weights: list[float] = []
    for start, piece, weight in pieces:
        letters += " " * (start - len(letters)) + piece[max(0, len(letters) - start) :]
        weights += [0.0] * (len(letters) - len(weights))
        for place in range(start, start + len(piece)):
            weights[place] = max(weights[place], weight)
    shown = []
    for word in _WORDS.finditer("".join(letters)):
        text, weight = html.escape(word.group()), max(weights[word.start() : word.end()])
        if weight >= _FAINTEST and not word.group().isspace():
            more = _UNDERLINED if weight >= 0.5 else ""
            text = _WORD.format(weight=weight, alpha=weight * _STRONGEST, more=more, text=text)
        shown.append(text)
    return "".join(shown)
