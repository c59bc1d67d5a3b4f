"""Recognising answers that are data, not prose: rewriting them would break the program that reads them."""

from __future__ import annotations

import json
import re
from xml.parsers import expat

_CLOSING = {"{": "}", "[": "]"}
# A string without an end goes to the end of the text, or each of its quotation marks would be looked at as a beginning.
_BRACKET = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*(?:"|\Z)', re.DOTALL)
_FENCE = re.compile(r"\A```[\w-]*\n(.*)\n```\Z", re.DOTALL)


def is_structured(answer: str) -> bool:
    """Return whether an answer as a whole parses as a JSON object or array, or as an XML document.

    A bare number or a quoted word parses as JSON too, but is an answer in prose. A single code fence around the data
    is looked through.
    """
    text = answer.strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1).strip()
    if text[:1] in ("{", "["):
        return _is_json(text)
    if text.startswith("<") and text.endswith(">"):
        return _is_xml(text)
    return False


def _is_json(text: str) -> bool:
    try:
        # Numbers are not looked into: Python refuses to convert those of thousands of digits.
        json.loads(text, parse_int=str, parse_float=str)
    except ValueError:
        return False
    except RecursionError:  # nested deeper than Python goes: data all the same if its brackets close
        return _closes(text)
    return True


def _closes(text: str) -> bool:
    """Whether brackets outside of strings close in order, with the text's last character."""
    expected: list[str] = []
    for match in _BRACKET.finditer(text):
        mark = match[0]
        if mark in _CLOSING:
            expected.append(_CLOSING[mark])
        elif mark in "}]":
            if not expected or expected.pop() != mark:
                return False
            if not expected:
                return match.end() == len(text)
    return False


def _is_xml(text: str) -> bool:
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        # Entities are how a small document grows without bound; data that declares some is not looked into.
        raise ValueError("entity declaration")

    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError):
        return False
    return True
