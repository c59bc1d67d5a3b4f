"""`Prefill`: the aligner reads a question and the answer so far while the upstream still writes, and is sooner done.

The text of a correction never depends on it: what was read is used again only as far as the tokens of the whole prompt
begin with it. What a backend does with it: `backends/base.py`, `backends/local/prefill.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType

from aligner_integrations.backends.base import Reader


class Prefill:
    """Takes an answer piece by piece. A context manager: what was read is kept until it is left.

    Example:
        >>> with aligner.prefill(question) as prefill:
        ...     answer = "".join(prefill.through(upstream))
        ...     correction = aligner.correct(question, answer)

    Args:
        open_reader: Returns what reads, given the first piece; None if nothing does. Called at the second piece, because
            of an answer that comes at once there is nothing to read ahead.
    """

    def __init__(self, open_reader: Callable[[str], Reader | None]) -> None:
        self._open: Callable[[str], Reader | None] | None = open_reader
        self._reader: Reader | None = None
        self._first = ""

    def feed(self, piece: str) -> None:
        """Take the next piece of the answer. Never waits, whether called by a thread or an event loop."""
        if not piece:
            return
        if self._reader is not None:
            self._reader.feed(piece)
        elif self._open is not None and not self._first:
            self._first = piece
        elif self._open is not None:
            open_reader, self._open = self._open, None
            self._reader = open_reader(self._first)
            if self._reader is not None:
                self._reader.feed(self._first + piece)

    def through(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the pieces of an answer as they are, and take them."""
        for piece in pieces:
            self.feed(piece)
            yield piece

    async def athrough(self, pieces: AsyncIterable[str]) -> AsyncIterator[str]:
        """`through` for an asynchronous upstream."""
        async for piece in pieces:
            self.feed(piece)
            yield piece

    def close(self) -> None:
        """Stop reading, and free what was read."""
        reader, self._reader, self._open = self._reader, None, None
        if reader is not None:
            reader.close()

    def __enter__(self) -> Prefill:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading."""
        self.close()
