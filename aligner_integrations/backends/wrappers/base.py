"""A backend around another one: what wrappers share.

What they add is in `traced.py`, `resilient.py` and `cached.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aligner_integrations.backends.base import Backend, Reader
from aligner_integrations.templates import Template


class Wrapper(Backend):
    """Says of itself what the inner backend says; the subclass runs requests."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.concurrency = inner.concurrency

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
    def objections(self) -> Mapping[str, float]:
        """What the inner backend's gate knows of answers as a whole."""
        return self.inner.objections

    @property
    def minimal(self) -> bool:
        """Whether the inner backend's aligner makes minimal edits."""
        return self.inner.minimal

    @property
    def can_score(self) -> bool | None:
        """Whether the inner backend can score."""
        return self.inner.can_score

    def forget(self) -> None:
        """Have the inner backend forget."""
        self.inner.forget()

    @property
    def cpu_threads(self) -> int | None:
        """Those of the inner backend."""
        return self.inner.cpu_threads

    @property
    def judges_streams(self) -> bool:
        """Whether the inner backend judges while it streams."""
        return self.inner.judges_streams

    @property
    def may_fall_back(self) -> bool:
        """Whether a text may come from another aligner than the inner backend's."""
        return self.inner.may_fall_back

    @property
    def rules(self) -> Any:
        """The rules under which the inner backend is called."""
        return self.inner.rules

    @property
    def fingerprint(self) -> list[Any] | None:
        """What decides the inner backend's texts."""
        return self.inner.fingerprint

    def load(self) -> None:
        """Get the inner backend ready."""
        self.inner.load()

    def close(self) -> None:
        """Give back what the inner backend uses."""
        self.inner.close()

    async def aclose(self) -> None:
        """`close` for what event loops use, too."""
        await self.inner.aclose()

    def prefill(self, prompt: Callable[[str], str]) -> Reader | None:
        """Return a reader of the inner backend, if that has one."""
        return self.inner.prefill(prompt)
