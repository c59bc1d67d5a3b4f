"""Questions and answers as callers have them: (question, answer), or rows with these two keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aligner_integrations.errors import InvalidTextError

Pair = tuple[str, str] | Mapping[str, Any]
"""(question, answer), or a row such as {"question": ..., "answer": ...}, whose other keys are the caller's own."""

_KEYS = ("question", "answer")
_SHAPES = '(question, answer) or {"question": ..., "answer": ...}'


def pairs_of(rows: Iterable[Pair]) -> list[tuple[Any, Any]]:
    """Return (question, answer) of each row. What the two are is not looked at: a wrong value is that row's trouble alone.

    Raises:
        InvalidTextError: What was given is no list of rows, or a row in it has another shape. A string would be a pair of two
            letters and a dict one of two keys, so neither passes for one.
    """
    if isinstance(rows, str | bytes | Mapping):
        raise InvalidTextError(f"A list of rows is needed, each of them {_SHAPES}; got one {type(rows).__name__}.")
    return [_pair(number, row) for number, row in enumerate(rows)]


def _pair(number: int, row: Any) -> tuple[Any, Any]:
    if isinstance(row, Mapping):
        if missing := [key for key in _KEYS if key not in row]:
            keys = ", ".join(repr(key) for key in list(row)[:8]) or "none"
            raise InvalidTextError(f"Row {number} has no {' and no '.join(missing)}; its keys are {keys}.")
        return row["question"], row["answer"]
    if isinstance(row, Sequence) and not isinstance(row, str | bytes | bytearray) and len(row) == 2:
        return row[0], row[1]
    size = f" of {len(row)}" if isinstance(row, Sequence) and not isinstance(row, str | bytes | bytearray) else ""
    raise InvalidTextError(f"Row {number} is a {type(row).__name__}{size}; each row is {_SHAPES}.")
