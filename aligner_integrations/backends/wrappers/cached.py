"""Corrections that have been made before: kept in memory or in an SQLite file, for threads, tasks and processes.

`Cache` is what users make and share; `CachedBackend` is one backend behind it. Only what an aligner finished is kept:
nothing empty, cut, failed or written by a fallback. What lives elsewhere: the file (`store.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from aligner_integrations import telemetry
from aligner_integrations._version import __version__
from aligner_integrations.backends.base import Backend, Completion, Keep, Request, Score, TokenScore, closing_at_end
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.wrappers.base import Wrapper
from aligner_integrations.backends.wrappers.store import Store
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, BackendError
from aligner_integrations.fingerprint import serial

_Result = TypeVar("_Result")
_Ask = Callable[[Sequence[Request]], list[_Result | AlignerError]]
_AsyncAsk = Callable[[Sequence[Request]], Awaitable[list[_Result | AlignerError]]]
_Kind = Literal["completion", "score"]

# In every key: what is stored means something else once this changes.
_FORMAT = 1


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


class Flights:
    """Which requests are being run at the moment, and who waits for them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._running)

    def join(self, key: bytes) -> tuple[Flight, bool]:
        """Return what the request will come to, and whether it is up to the caller to run it and `land` it."""
        with self._guard:
            if key in self._running:
                return self._running[key], False
            flight = self._running[key] = Flight()
            return flight, True

    def land(self, key: bytes, flight: Flight, result: Any) -> None:
        """Give those who wait the result; None: they have to run it themselves."""
        with self._guard:
            del self._running[key]
        flight.set_result(result)


class Flight(Future[Any]):
    """What a request will come to; `thread` is the one that began it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.set_running_or_notify_cancel()  # so that one who waits and is cancelled does not cancel it


class _Search(Generic[_Result]):
    """One call on its way through a cache; lives for that call only.

    Args:
        cache: The cache.
        backend: The backend behind it.
        kind: What is asked for.
        requests: The requests.
    """

    def __init__(self, cache: Cache, backend: Backend, kind: _Kind, requests: Sequence[Request]) -> None:
        self._cache = cache
        self._backend = backend
        self._kind = kind
        self._requests = list(requests)
        self._keys: list[bytes] = []
        self._flights: dict[int, Flight] = {}  # those begun here
        self._results: list[Any] = [None] * len(self._requests)
        self.others: dict[int, Flight] = {}
        """Those that somebody else has begun, by their places."""

    def name(self) -> bool:
        """Find the keys of the requests; False if the backend cannot say who it is at the moment. May read files."""
        try:
            self._keys = keys(self._backend, self._kind, self._requests)
        except BackendError:  # a server that is down; asking it for more than its name will say so
            return False
        return True

    def open(self) -> tuple[bool, bool]:
        """Do `name`, and look whether the store has everything, so that nothing has to be begun. May read files."""
        if not self.name():
            return False, False
        found = self._cache.store.get(self._keys)
        results = [_decode(self._kind, found[key]) for key in self._keys if key in found]
        if len(results) < len(self._keys) or None in results:
            return True, False  # `find` looks again: somebody may have landed meanwhile
        self._results = results
        telemetry.count("aligner.cache.lookups", len(found), {"aligner.cache.hit": True})
        return True, True

    def join(self) -> None:
        """Begin what nobody has begun; what comes twice in a batch is begun once. `land` has to follow."""
        for i, key in enumerate(self._keys):
            flight, own = self._cache.flights.join(key)
            (self._flights if own else self.others)[i] = flight

    def find(self) -> None:
        """Look in the store. May read a file."""
        found = self._cache.store.get([self._keys[i] for i in self._flights])
        for i in self._flights:
            if (text := found.get(self._keys[i])) is not None:
                self._results[i] = _decode(self._kind, text)
        telemetry.count("aligner.cache.lookups", len(found), {"aligner.cache.hit": True})
        telemetry.count("aligner.cache.lookups", len(self._flights) - len(found), {"aligner.cache.hit": False})

    @property
    def missing(self) -> list[int]:
        """Places of requests that have to be run here."""
        return [i for i in range(len(self._requests)) if self._results[i] is None and i not in self.others]

    def parts(self) -> list[Request]:
        """Requests that have to be run here."""
        return [self._requests[i] for i in self.missing]

    def known(self) -> str | None:
        """The text of the only request, if it is in the store."""
        if self.name():
            text = self._cache.store.get(self._keys).get(self._keys[0])
            telemetry.count("aligner.cache.lookups", 1, {"aligner.cache.hit": text is not None})
            return text
        return None

    def take(self, results: Sequence[_Result | AlignerError]) -> None:
        """Take what came of them, and keep what is good. May write a file."""
        good: dict[int, str] = {}
        for i, result in zip(self.missing, results, strict=True):
            self._results[i] = result
            if self._keys and (text := _encode(result)) is not None:
                good[i] = text
        # Weights that were loaded only now may be newer than those that were asked for.
        if good and keys(self._backend, self._kind, [self._requests[i] for i in good]) == [self._keys[i] for i in good]:
            self._cache.store.put({self._keys[i]: text for i, text in good.items()})

    def land(self) -> None:
        """Give what was begun here to those who wait for it."""
        while self._flights:
            i, flight = self._flights.popitem()
            result = self._results[i]
            self._cache.flights.land(self._keys[i], flight, None if isinstance(result, AlignerError) else result)

    def left(self, i: int) -> float | None:
        """Seconds until the deadline of a request."""
        return Deadline(self._requests[i].timeouts.deadline).left

    def settle(self, i: int, result: Any) -> None:
        """Take what somebody else's run came to; None: it has to be run here."""
        self.others.pop(i)
        if isinstance(result, Completion):
            result = replace(result, usage=Usage())  # its tokens are counted where it was run
        self._results[i] = result

    def done(self) -> list[_Result | AlignerError]:
        """One result a request, in order."""
        return self._results


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

    def _through(self, kind: _Kind, requests: Sequence[Request], run: _Ask[_Result]) -> list[_Result | AlignerError]:
        search = _Search[_Result](self.cache, self.inner, kind, requests)
        if not search.name():
            return run(requests)
        try:
            search.join()
            search.find()
            if parts := search.parts():
                search.take(run(parts))
        finally:
            search.land()
        for i, flight in list(search.others.items()):
            # Somebody this very thread has interrupted would never go on while it waits here.
            result = None
            if flight.thread != threading.get_ident() or flight.done():
                try:
                    result = flight.result(search.left(i))
                except TimeoutError:
                    result = _late()
            search.settle(i, result)
        if parts := search.parts():
            search.take(run(parts))
        return search.done()

    async def _athrough(
        self, kind: _Kind, requests: Sequence[Request], run: _AsyncAsk[_Result]
    ) -> list[_Result | AlignerError]:
        search = _Search[_Result](self.cache, self.inner, kind, requests)
        # One thread for a hit: each costs as much as the look-up itself.
        named, found = await asyncio.to_thread(search.open)
        if not named:
            return await run(requests)
        if found:
            return search.done()
        try:
            search.join()
            await asyncio.to_thread(search.find)
            if parts := search.parts():
                await asyncio.to_thread(search.take, await run(parts))
        finally:
            search.land()
        for i, flight in list(search.others.items()):
            try:
                async with asyncio.timeout(search.left(i)):
                    result = await asyncio.wrap_future(flight)
            except TimeoutError:
                result = _late()
            search.settle(i, result)
        if parts := search.parts():
            await asyncio.to_thread(search.take, await run(parts))
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
        if (text := await asyncio.to_thread(search.known)) is not None:
            yield text
            return
        written = []
        async with closing_at_end(self.inner.astream(request)) as pieces:
            async for piece in pieces:
                written.append(piece)
                yield piece
        await asyncio.to_thread(self._keep_text, search, written)

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
        if not self.judges_streams or await asyncio.to_thread(self._knows, request):
            async with closing_at_end(super().astream_unless(request, keep)) as known:
                async for item in known:
                    yield item
            return
        items = []
        async with closing_at_end(self.inner.astream_unless(request, keep)) as pieces:
            async for item in pieces:
                items.append(item)
                yield item
        await asyncio.to_thread(self._keep_items, request, items)

    def _search(self, kind: _Kind, request: Request) -> _Search[Any]:
        return _Search(self.cache, self.inner, kind, [request])

    def _knows(self, request: Request) -> bool:
        """Whether there is a score or a text, so that judging before is as quick as judging while it streams."""
        try:
            wanted = [key for kind in get_args(_Kind) for key in keys(self.inner, kind, [request])]
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

    def _keep_text(self, search: _Search[Any], written: Sequence[str | Score]) -> None:
        # A stream does not say whether it is a fallback's.
        if not self.inner.may_fall_back:
            search.take([Completion("".join(map(str, written)), "stop")])


def keys(backend: Backend, kind: _Kind, requests: Sequence[Request]) -> list[bytes]:
    """Return what tells the requests from all that could come to another text."""
    name = backend.fingerprint
    while isinstance(backend, Wrapper):
        backend = backend.inner
    head = [_FORMAT, __version__, kind, serial(backend) if name is None else name]
    return [
        hashlib.sha256(
            json.dumps(
                [*head, r.prompt, r.completion_prefix, r.max_new_tokens, r.question, r.answer], default=repr
            ).encode()
        ).digest()
        for r in requests
    ]


def _encode(result: Any) -> str | None:
    """What is kept of a result; None: nothing."""
    if isinstance(result, Completion):
        good = result.finish_reason == "stop" and result.text.strip() and not result.by_fallback
        return result.text if good and _is_text(result.text) else None
    if isinstance(result, Score):
        tokens = [[t.text, t.start, t.end, t.logprob, t.gap, t.mark] for t in result.tokens]
        return json.dumps([tokens, result.total, result.mean, result.minimum, result.max_gap, result.gate])
    return None


def _is_text(text: str) -> bool:
    """False with half of a surrogate pair in it, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(kind: _Kind, text: str) -> Completion | Score | None:
    """The result that was kept; it takes no tokens. None: somebody else has written into the file."""
    if kind == "completion":
        return Completion(text, "stop")
    try:
        tokens, *numbers = json.loads(text)
        return Score(tuple(TokenScore(*token) for token in tokens), *numbers)
    except (ValueError, TypeError):
        return None


def _late() -> BackendError:
    return BackendError("The deadline passed while an equal request was being run.", retryable=True)
