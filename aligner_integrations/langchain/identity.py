"""What an aligner is called in the key of a cache: the same for aligners that correct alike, as far as one can tell."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from aligner_integrations._version import __version__
from aligner_integrations.aligner import Aligner
from aligner_integrations.backends.remote.keys import Secret
from aligner_integrations.templates import Template

# Options that decide nothing about the text, and the backend, which has a name of its own below.
_NO_MATTER = ("backend", "record", "resilience", "cache")
# Not id(): another object may have it once this one is gone, and caches live longer.
_serials: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def identity(thing: Any) -> str:
    """Return a short name of an aligner or a function.

    Models and options that are plain data count by their value, so that a cache on disk is of use to other processes.
    Functions and foreign objects count as themselves. Hashed, because options may hold secrets.
    """
    if isinstance(thing, Aligner):
        options = {name: value for name, value in vars(thing).items() if name not in _NO_MATTER}
        text = f"{__version__} {_backend(thing.backend)} {_plain(options)}"
    else:
        text = _plain(thing)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _backend(backend: Any) -> str:
    """Its class and what it was made with, if it keeps that; whatever else it holds may change as it works."""
    kind = type(backend)
    names = [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]
    if not all(hasattr(backend, name) for name in names):
        return _plain(backend)
    made_with = {name: getattr(backend, name) for name in names}
    return f"{kind.__module__}.{kind.__qualname__} {_plain(made_with)}"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, str | int | float | Path | Template | Secret):
        return repr(value)  # a secret's says nothing: a correction does not depend on who pays for it
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_plain(item)}' for key, item in value.items())}}}"
    try:
        return f"<{type(value).__qualname__} {_serials.setdefault(value, uuid4().hex)}>"
    except TypeError:  # no weak reference, or no hash: never taken for another
        return f"<{type(value).__qualname__} {uuid4().hex}>"
