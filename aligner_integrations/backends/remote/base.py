"""What backends on a server share: each verb is written once, as a coroutine on the loop (`loop.py`), for all callers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.deadline import Clock, Deadline
from aligner_integrations.backends.remote.http import Endpoint, Json
from aligner_integrations.backends.remote.loop import acall, aread, bare, call, read
from aligner_integrations.backends.remote.responses import StatusError, Written
from aligner_integrations.backends.remote.window import Fitted, fit, refit
from aligner_integrations.backends.request import Completion, Request, Timeouts, require_end
from aligner_integrations.backends.side_by_side import aeach
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError

_T = TypeVar("_T")

_TAIL = 0.5
"""Seconds to wait for the token counts that may follow a streamed text."""

_ATTEMPTS = 4  # as it was meant; then without what the server refuses, one thing at a time


class RemoteBackend(Backend):
    """A backend on a server. A subclass says what is sent, and how the answer is read."""

    concurrency: int

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Correct a batch, side by side."""
        return call(self._complete, requests)

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it closes its connections."""
        return await acall(self._complete, requests)

    def stream(self, request: Request) -> Generator[str, None, None]:
        """Yield text as it comes; closing the iterator closes the connection."""
        return read(self._stream(request))

    def astream(self, request: Request) -> AsyncGenerator[str, None]:
        """`stream` without blocking the event loop."""
        return aread(self._stream(request))

    # On the loop ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _server(self) -> Endpoint:
        """Who is asked."""

    @abstractmethod
    async def _ready(self, clock: Clock) -> RemoteBackend:
        """Learn what has to be known of the server first; return the backend that runs requests, which may be another."""

    async def _fitted(self, request: Request) -> Fitted:
        """Return a request as it is sent."""
        return fit(request, None)

    @abstractmethod
    def _asked(self, job: Fitted, *, stream: bool) -> tuple[str, Json]:
        """Return path and body."""

    @abstractmethod
    def _written(self) -> Written:
        """Return what reads the answer."""

    def _adapted(self, job: Fitted, refusal: StatusError) -> Fitted:
        """Return what to send after a refusal, or raise it."""
        return refit(job, refusal)

    def _worked(self, meant: Fitted, sent: Fitted) -> None:
        """Learn from a request that was answered, in other words than it was meant."""

    async def _complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        try:
            backend = await self._ready(longest(requests))
        except BackendError as error:
            return [error] * len(requests)
        return await aeach(lambda request: settled(backend._one(request)), requests, backend.concurrency)

    async def _stream(self, request: Request) -> AsyncGenerator[str, None]:
        backend = await self._ready(longest([request]))
        async with aclosing(backend._streamed(request, shown=True)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield part

    # What the server refuses is left out of the next attempt.

    async def _one(self, request: Request) -> Completion:
        if request.timeouts.first_token is not None:  # when a token comes shows in a stream only
            async with aclosing(self._streamed(request, shown=False)) as parts:
                (done,) = [part async for part in parts if isinstance(part, Completion)]
            return done
        meant = job = await self._fitted(request)
        for _ in range(_ATTEMPTS):
            path, body = self._asked(job, stream=False)
            try:
                answer = await self._server.ask(path, body, Clock(request.timeouts))
            except StatusError as refusal:
                job = self._adapted(job, refusal)
                continue
            written = self._written()
            written.take(answer)
            return self._done(written, meant, job)
        raise self._never_pleased()

    async def _streamed(self, request: Request, *, shown: bool) -> AsyncGenerator[str | Completion, None]:
        """Yield the pieces of a text, and at last the completion.

        Args:
            request: The correction to run.
            shown: Whether somebody reads the pieces, who cannot be told afterwards that they were cut.
        """
        meant = job = await self._fitted(request)
        for _ in range(_ATTEMPTS):
            written = self._written()
            try:
                async with aclosing(self._pieces(job, written)) as pieces:
                    async for piece in pieces:
                        yield piece
            except StatusError as refusal:
                if written.text:
                    raise
                job = self._adapted(job, refusal)
                continue
            done = self._done(written, meant, job)
            if shown:
                require_end(done, job.limit)
            yield done
            return
        raise self._never_pleased()

    async def _pieces(self, job: Fitted, written: Written) -> AsyncGenerator[str, None]:
        clock, mender = Clock(job.request.timeouts), job.broken.mender()
        path, body = self._asked(job, stream=True)
        async with aclosing(self._server.events(path, body, clock)) as events:
            with _tail_matters_little(written):
                async for event in events:
                    if piece := written.feed(event):
                        clock.token_seen()
                        if shown := mender.feed(piece):
                            yield shown
                    if written.reason is not None:
                        if written.usage != Usage():
                            break
                        clock.hurry(_TAIL)
        if rest := mender.end():
            yield rest

    def _done(self, written: Written, meant: Fitted, sent: Fitted) -> Completion:
        self._worked(meant, sent)
        return written.completion(sent.broken.mend)

    def _never_pleased(self) -> BackendError:
        return BackendError(f"{self._server.host} refuses the prompt each time for another reason.")


@contextmanager
def _tail_matters_little(written: Written) -> Iterator[None]:
    """Let nothing that goes wrong after the end of the text, where token counts may come, spoil the text."""
    try:
        yield
    except BackendError:
        if written.reason is None:
            raise


def without_own(generation: Mapping[str, Any] | None, own: set[str]) -> dict[str, Any]:
    """Return what a caller wants in each request.

    Raises:
        ConfigurationError: One of these fields is the backend's own.
    """
    if wrong := sorted(own & set(generation or {})):
        raise ConfigurationError(f"generation holds {', '.join(wrong)}, which the backend sets itself.")
    return dict(generation or {})


def longest(requests: Sequence[Request]) -> Clock:
    """The clock of what is asked once for all requests: as long as the last of them has time."""
    timeouts = [request.timeouts for request in requests]
    deadline = Deadline.latest(timeouts).point
    return Clock(Timeouts(connect=timeouts[0].connect if timeouts else None, deadline=deadline))


async def settled(work: Awaitable[_T]) -> _T | AlignerError:
    """Return what the work for one of many comes to, or its error."""
    try:
        return await work
    except AlignerError as error:
        return bare(error)
