"""What tells aligners, functions and backends apart in the keys of caches.

Plain data counts by its value, so that a cache on disk is of use to other processes. Functions and foreign objects count as
themselves. Nothing is looked up here; what decides a backend's texts down to its weights is `Backend.fingerprint`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

# Not id(): another object may have it once this one is gone, and caches live longer.
_serials: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def serial(thing: Any) -> str:
    """Return a name that this object alone has, in this process and any other."""
    try:
        return _serials.setdefault(thing, uuid4().hex)
    except TypeError:  # no weak reference, or no hash: never taken for another
        return uuid4().hex


def fingerprint(*things: Any) -> str:
    """Return a short name of things, equal for things that are alike as far as one can tell.

    Hashed, because options may hold what nobody should read in a key.
    """
    return hashlib.sha256(", ".join(map(_plain, things)).encode()).hexdigest()[:16]


def made_with(thing: Any) -> list[Any]:
    """Return an object's class and what it was made with, if it keeps that; else the object.

    What else it holds may change as it works. A key for a server is left out: a text does not depend on who pays for it.
    """
    kind = type(thing)
    names = [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs", "api_key")]
    if not all(hasattr(thing, name) for name in names):
        return [thing]
    return [f"{kind.__module__}.{kind.__qualname__}", {name: getattr(thing, name) for name in names}]


def _plain(value: Any) -> str:
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_plain(item)}' for key, item in value.items())}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain([type(value).__qualname__, *(getattr(value, f.name) for f in dataclasses.fields(value))])
    return f"<{type(value).__qualname__} {serial(value)}>"
