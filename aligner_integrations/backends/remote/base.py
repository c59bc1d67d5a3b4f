"""What backends on a server share: each verb is written once, as a coroutine on the loop (`loop.py`), for all callers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Generator, Sequence
from typing import TypeVar

from aligner_integrations.backends.base import Backend, Completion, Request, Timeouts
from aligner_integrations.backends.deadline import Clock, Deadline
from aligner_integrations.backends.remote.loop import acall, aread, bare, call, read
from aligner_integrations.errors import AlignerError

_T = TypeVar("_T")


class RemoteBackend(Backend):
    """A backend on a server. A subclass has `_complete` and `_stream`, which run on the loop."""

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

    @abstractmethod
    async def _complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]: ...

    @abstractmethod
    def _stream(self, request: Request) -> AsyncGenerator[str, None]: ...


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
