"""Corrections as they are written: the iterators `Aligner.stream` and `astream` return, and the text between.

A piece of text is shown only when nothing later can take it back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

from aligner_integrations.backends.score import Score
from aligner_integrations.circles import Circles
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, LostTextError, TruncatedCorrectionError
from aligner_integrations.job import Job


class LiveText:
    """Turns the raw pieces of a completion into pieces of the final text, as early as that is safe.

    Outer white space is not part of a correction, and a correction equal to the answer up to outer white space is the
    answer itself. So white space is held back until something follows it, and an answer that starts with white space
    is held back while the correction may still turn out to be the same.

    Args:
        job: The correction that is written; it takes the text at the end.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._answer = answer = job.answer if isinstance(job.answer, str) else ""
        self._core = answer.strip()
        self._leading = answer[: len(answer) - len(answer.lstrip())]
        self._raw = ""
        self._shown = 0
        self._circles = Circles(job.text if isinstance(job.text, str) else "")
        self._guard = None if job.done else job.guard
        self._held = bool(self._leading)

    @property
    def judges_first(self) -> bool:
        """Whether the gate is asked before the stream begins, and not in it."""
        return not self._job.done and self._job.keep is None

    @property
    def text(self) -> str:
        """The stripped text so far."""
        return self._raw.strip()

    @property
    def started(self) -> bool:
        """Whether anything was given out."""
        return self._shown > 0

    def feed(self, piece: str | Score) -> str:
        """Take a raw piece, or the score of an answer that is kept; return what can be shown now."""
        if isinstance(piece, Score):
            self._job.judge(piece)
            return ""
        return self._guarded(self._circles.feed(piece))

    def _guarded(self, piece: str) -> str:
        return self._show(piece if self._guard is None else self._guard.feed(piece))

    def _show(self, piece: str) -> str:
        self._raw = (self._raw + piece) if self._raw else piece.lstrip()
        text = self._raw.rstrip()
        if self._held and self._core.startswith(text):
            return ""
        self._held = False
        new = text[self._shown :]
        self._shown = len(text)
        return new

    def end(self) -> str:
        """The completion is over: let the job take it, and return what is left to show."""
        last = ""
        try:
            if not self._job.error:
                if held := self._circles.end():
                    last = self._guarded(held)
                if self._guard is not None:
                    last += self._show(self._guard.end())
        except LostTextError as error:
            self.fail(error)
        if not self._job.done:
            self._job.write(self.text)
        if self._job.error:
            return ""
        text = self.text
        if text == self._core:
            text = self._answer if self._held else self._answer[len(self._leading) :]
        rest = text[self._shown :]
        self._shown = len(text)
        return last + rest

    def fail(self, error: AlignerError) -> None:
        """Let the job answer an error, unless something is out that cannot be taken back: then raise it.

        It is none if the completion was cut where nothing that it may say would be shown.
        """
        complete = self._circles.closed or (self._guard is not None and self._guard.complete)
        if isinstance(error, TruncatedCorrectionError) and complete:
            return
        if self.started:
            raise error
        self._job.fail(error)


class CorrectionStream(Iterator[str]):
    """Pieces of the corrected text; `correction` is set once they are all read."""

    def __init__(self, pieces: Generator[str, None, Correction]) -> None:
        self._pieces = pieces
        self.correction: Correction | None = None

    def __iter__(self) -> CorrectionStream:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next piece."""
        try:
            return next(self._pieces)
        except StopIteration as stop:
            if stop.value is not None:
                self.correction = stop.value
            raise StopIteration from None

    def close(self) -> None:
        """Stop the aligner; needed only when the stream is abandoned before its end."""
        self._pieces.close()


class AsyncCorrectionStream(AsyncIterator[str]):
    """The asynchronous twin of `CorrectionStream`."""

    def __init__(self, pieces: AsyncGenerator[str | Correction, None]) -> None:
        self._pieces = pieces
        self.correction: Correction | None = None

    def __aiter__(self) -> AsyncCorrectionStream:
        """Return itself."""
        return self

    async def __anext__(self) -> str:
        """Return the next piece."""
        piece = await self._pieces.__anext__()
        if isinstance(piece, Correction):  # an async generator cannot return a value, so the last item is it
            self.correction = piece
            await self._pieces.aclose()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Stop the aligner; needed only when the stream is abandoned before its end."""
        await self._pieces.aclose()
