"""A reasoning model's thought at the beginning of its text (`<think> ... </think>`), which is no part of its answer.

Servers that know the model take it out of the text; others, and templates that open the tag in the prompt, leave it there.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = "<think>", "</think>"
# The end of a thought whose beginning is in the prompt stands on a line of its own; inside a sentence it is a word about tags.
_LONE_CLOSE = re.compile(r"^[ \t]*</think>[ \t]*$", re.MULTILINE)


def split_thought(text: str) -> tuple[str, str]:
    """Return a text's thought, with its tags and the white space around it, and what is behind it.

    A thought that has no end is all there is: nothing of it is an answer. Linear in the length of the text.
    """
    end = 0
    while text.startswith(_OPEN, start := _after_space(text, end)):
        close = text.find(_CLOSE, start)
        if close < 0:
            return text, ""
        end = close + len(_CLOSE)
    if not end and _OPEN not in text and (lone := _LONE_CLOSE.search(text)):
        end = lone.end()
    if end:
        end = _after_space(text, end)
    return text[:end], text[end:]


def _after_space(text: str, start: int) -> int:
    """The first place that is no white space."""
    while start < len(text) and text[start].isspace():
        start += 1
    return start
