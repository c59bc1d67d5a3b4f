"""Which request a correction belongs to: what the application, or an integration, says around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ids: ContextVar[tuple[str, ...]] = ContextVar("aligner_request", default=())


@contextmanager
def for_request(*ids: str) -> Iterator[None]:
    """Say to which request the corrections belong that are made within; it stands in their records.

    Args:
        *ids: One for all of them, or one each in the order of a batch.
    """
    token = _ids.set(tuple(map(str, ids)))
    try:
        yield
    finally:
        _ids.reset(token)


def has_request() -> bool:
    """Whether somebody has said so already: an application knows better than an integration."""
    return bool(_ids.get())


def request_of(number: int) -> str | None:
    """Return the request of the `number`-th correction of a batch, or None."""
    ids = _ids.get()
    if len(ids) == 1:
        return ids[0]
    return ids[number] if number < len(ids) else None
