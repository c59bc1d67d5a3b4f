"""A backend around another one: what wrappers share. What they add is in `resilient.py`, `cached.py` and `telemetry.py`."""

from __future__ import annotations

from collections.abc import Callable

from aligner_integrations.backends.base import Backend, Reader, ReadsAhead
from aligner_integrations.templates import Template


class Wrapper:
    """Says of itself what the inner backend says; the subclass runs requests."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        """Name both."""
        return f"{type(self).__name__}({self.inner!r})"

    @property
    def template(self) -> Template | None:
        """The inner backend's template."""
        return self.inner.template

    @property
    def gate(self) -> float | None:
        """The threshold of the inner backend's gate."""
        return self.inner.gate

    @property
    def can_score(self) -> bool:
        """Whether the inner backend can score."""
        return self.inner.can_score

    def load(self) -> None:
        """Get the inner backend ready."""
        self.inner.load()

    def ahead(self, prompt: Callable[[str], str]) -> Reader | None:
        """Return a reader of the inner backend, if that reads ahead."""
        return self.inner.ahead(prompt) if isinstance(self.inner, ReadsAhead) else None
