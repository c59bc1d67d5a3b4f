"""`HandsOn`: what a wrapper does not have itself is read from what it wraps.

What lives elsewhere: `AlignerLLM`, whose base class has ways of its own (`llm.py`).
"""

from __future__ import annotations

from typing import Any


class HandsOn:
    """A base for wrappers.

    Attributes:
        _inner: What is wrapped.
    """

    _inner: Any

    def __getattr__(self, name: str) -> Any:
        """Return the wrapped object's attribute; what is set on the wrapper is the wrapper's."""
        # Not what is private: copy and pickle ask for some of it before there is anything wrapped, and what LlamaIndex's own
        # engines do to each other's inside would pass the aligner by.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._inner, name)
