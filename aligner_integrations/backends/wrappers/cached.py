"""Corrections that have been made before: kept in memory or in an SQLite file, for threads, tasks and processes.

`Cache` is what users make and share; `CachedBackend` is one backend behind it. Only what an aligner finished is kept:
nothing empty, cut, failed or written by a fallback. What lives elsewhere: how one call goes (`search.py`), the file (`store.py`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from aligner_integrations import threads
from aligner_integrations.backends.base import Backend, closing_at_end
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.score import Keep, Score
from aligner_integrations.backends.wrappers.base import Wrapper
from aligner_integrations.backends.wrappers.search import Flights, Kind, Search, keys
from aligner_integrations.backends.wrappers.store import Store
from aligner_integrations.errors import AlignerError, BackendError

_Result = TypeVar("_Result")
_Ask = Callable[[Sequence[Request]], list[_Result | AlignerError]]
_AsyncAsk = Callable[[Sequence[Request]], Awaitable[list[_Result | AlignerError]]]


class Cache:
    """Where aligners look for corrections, and for the scores of their gates, before they make them.

    A correction is found again if everything that decides its text is the same: weights and their revision, parameters,
    template, question and answer. Equal requests at the same time are run once. Of a server the URL and the model's name
    are known, not its weights: use `ttl` or `clear` where they change. A backend without a `fingerprint`, which says
    what decides its texts, has a part of the cache to itself, and in each process an empty one.

    What the aligner wrote is stored as plain text; questions and answers are not stored. A file is readable for its
    owner only.

    Args:
        path: An SQLite file, which any number of processes may share. None: in memory, for this process.
        ttl: Seconds for which a correction is kept; None: as long as there is room.
        max_bytes: Most bytes of the file or the memory; the oldest corrections go first.

    Raises:
        ConfigurationError: The file cannot be used, or a number makes no sense.
    """

    def __init__(self, path: str | Path | None = None, *, ttl: float | None = None, max_bytes: int = 2**28) -> None:
        self.path = path
        self.ttl = ttl
        self.max_bytes = max_bytes
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self.store = Store(self.path, ttl=self.ttl, max_bytes=self.max_bytes)
        self.flights = Flights()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """A copy uses the same file; one in memory starts empty."""
        return partial(Cache, self.path, ttl=self.ttl, max_bytes=self.max_bytes), ()

    def __repr__(self) -> str:
        """Name the file, or say that it is in memory."""
        return f"Cache({'' if self.path is None else repr(str(self.path))})"

    def wrap(self, backend: Backend) -> CachedBackend:
        """Return the backend behind this cache."""
        if self._process != os.getpid():  # a fork: neither an open database nor what threads are at comes along
            self._parents = self.store  # closed here, it would be the parent's file that is closed
            self._begin()
        return CachedBackend(backend, self)

    def clear(self) -> None:
        """Forget everything."""
        self.store.clear()

    def close(self) -> None:
        """Close the file; the cache cannot be used after that."""
        self.store.close()


class CachedBackend(Wrapper):
    """A backend whose finished work is looked up before it is done again."""

    def __init__(self, inner: Backend, cache: Cache) -> None:
        super().__init__(inner)
        self.cache = cache

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Look a batch up, and run what is missing; equal requests at the same time are run once."""
        return self._through("completion", requests, self.inner.complete)

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop."""
        return await self._athrough("completion", requests, self.inner.acomplete)

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """The same for scores."""
        return self._through("score", requests, self.inner.score)

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        return await self._athrough("score", requests, self.inner.ascore)

    def _through(self, kind: Kind, requests: Sequence[Request], run: _Ask[_Result]) -> list[_Result | AlignerError]:
        search = Search[_Result](self.cache.store, self.cache.flights, self.inner, kind, requests)
        try:
            if not threads.run(search.name, search.deadline.left):
                return run(requests)
        except TimeoutError:
            return search.late()
        while search.missing:
            failure: Exception | None = None
            try:
                search.join()
                search.find()
                if parts := search.parts():
                    search.take(run(parts))
            except Exception as error:
                failure = error
                raise
            finally:
                search.land(failure)
            search.wait()
        return search.done()

    async def _athrough(
        self, kind: Kind, requests: Sequence[Request], run: _AsyncAsk[_Result]
    ) -> list[_Result | AlignerError]:
        search = Search[_Result](self.cache.store, self.cache.flights, self.inner, kind, requests)
        try:
            # One thread for a hit: each costs as much as the look-up itself.
            if not await threads.arun(search.open, search.deadline.left):
                return await run(requests)
        except TimeoutError:
            return search.late()
        while search.missing:
            failure: Exception | None = None
            try:
                search.join()
                await threads.arun(search.find, None)
                if parts := search.parts():
                    results = await run(parts)
                    await threads.arun(partial(search.take, results), None)
            except Exception as error:
                failure = error
                raise
            finally:
                search.land(failure)
            await search.await_others()
        return search.done()

    def stream(self, request: Request) -> Iterator[str]:
        """Yield what is known at once, else the text as it is written, to be known from then on."""
        search = self._search("completion", request)
        if (text := search.known()) is not None:
            yield text
            return
        written = []
        for piece in self.inner.stream(request):
            written.append(piece)
            yield piece
        self._keep_text(search, written)

    async def astream(self, request: Request) -> AsyncIterator[str]:
        """`stream` without blocking the event loop; closing it stops the work."""
        search = self._search("completion", request)
        if (text := await threads.arun(search.known, search.deadline.left)) is not None:
            yield text
            return
        written = []
        async with closing_at_end(self.inner.astream(request)) as pieces:
            async for piece in pieces:
                written.append(piece)
                yield piece
        await threads.arun(partial(self._keep_text, search, written), None)

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept. What is known of the answer is never judged or written again."""
        if not self.judges_streams or self._knows(request):
            yield from super().stream_unless(request, keep)
            return
        items = []
        for item in self.inner.stream_unless(request, keep):
            items.append(item)
            yield item
        self._keep_items(request, items)

    async def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop; closing it stops the work."""
        if not self.judges_streams or await threads.arun(
            partial(self._knows, request), Deadline(request.timeouts.deadline).left
        ):
            async with closing_at_end(super().astream_unless(request, keep)) as known:
                async for item in known:
                    yield item
            return
        items = []
        async with closing_at_end(self.inner.astream_unless(request, keep)) as pieces:
            async for item in pieces:
                items.append(item)
                yield item
        await threads.arun(partial(self._keep_items, request, items), None)

    def _search(self, kind: Kind, request: Request) -> Search[Any]:
        return Search(self.cache.store, self.cache.flights, self.inner, kind, [request])

    def _knows(self, request: Request) -> bool:
        """Whether there is a score or a text, so that judging before is as quick as judging while it streams."""
        try:
            wanted = [key for kind in get_args(Kind) for key in keys(self.inner, kind, [request])]
        except BackendError:  # a server that is down; asking it for more than its name will say so
            return False
        return bool(self.cache.store.get(wanted))

    def _keep_items(self, request: Request, items: Sequence[str | Score]) -> None:
        """Keep what a stream came to that was judged while it was written: the score of a kept answer, or the text."""
        if isinstance(items[-1], Score):
            search = self._search("score", request)
            if search.name():
                search.take([items[-1]])
        else:
            search = self._search("completion", request)
            if search.name():
                self._keep_text(search, items)

    def _keep_text(self, search: Search[Any], written: Sequence[str | Score]) -> None:
        # A stream does not say whether it is a fallback's.
        if not self.inner.may_fall_back:
            search.take([Completion("".join(map(str, written)), "stop")])
