"""Recognising answers that are data, not prose: rewriting them would break the program that reads them."""

from __future__ import annotations

import json
import re
from xml.parsers import expat

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
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
        return True
    if text.startswith("<") and text.endswith(">"):
        return _is_xml(text)
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
