"""One call on its way through a cache: what is known already, what somebody else runs just now, and what is left to run.

Equal requests at the same time are run once. Whoever runs one is its leader, and the others wait for what becomes of it:
they share its failure, and if it has gone (cancelled, interrupted), one of them is the next leader. What lives elsewhere:
who asks (`cached.py`), and the file (`store.py`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar

from aligner_integrations import telemetry, threads
from aligner_integrations._version import __version__
from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.request import Completion, Request
from aligner_integrations.backends.score import Score, TokenScore
from aligner_integrations.backends.wrappers.base import Wrapper
from aligner_integrations.backends.wrappers.store import Store
from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, BackendError, CorrectionError, InputError
from aligner_integrations.fingerprint import serial
from aligner_integrations.visible import is_encodable

Kind = Literal["completion", "score"]

_Result = TypeVar("_Result")

# In every key: what is stored means something else once this changes.
_FORMAT = 3


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
        """Give those who wait the result; None: one of them has to run it."""
        with self._guard:
            del self._running[key]
        flight.set_result(result)


class Flight(Future[Any]):
    """What a request will come to: a result, an error that all who wait share, or None if whoever ran it has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()  # the one that began it
        self.set_running_or_notify_cancel()  # so that one who waits and is cancelled does not cancel it


class Search(Generic[_Result]):
    """One call on its way through a cache; lives for that call only.

    Args:
        store: What is kept.
        flights: What is run at the moment.
        backend: The backend behind it.
        kind: What is asked for.
        requests: The requests.
    """

    def __init__(
        self, store: Store, flights: Flights, backend: Backend, kind: Kind, requests: Sequence[Request]
    ) -> None:
        self._store = store
        self._running = flights
        self._backend = backend
        self._kind = kind
        self._requests = requests
        self._keys: list[bytes] = []
        self._flights: dict[int, Flight] = {}  # those begun here
        self._results: list[Any] = [None] * len(self._requests)
        self._alone: set[int] = set()
        self.deadline = Deadline.latest(request.timeouts for request in self._requests)
        self.others: dict[int, Flight] = {}
        """Those that somebody else has begun, by their places."""

    def name(self) -> bool:
        """Find the keys of the requests; False if the backend cannot say who it is at the moment. May read files."""
        try:
            self._keys = keys(self._backend, self._kind, self._requests)
        except BackendError:  # a server that is down; asking it for more than its name will say so
            return False
        return True

    def open(self) -> bool:
        """Do `name`, and take what the store has if it has everything, so that nothing has to be begun. May read files."""
        if not self.name():
            return False
        found = self._store.get(self._keys)
        results = [self._decoded(i, found) for i in range(len(self._keys))]
        if None not in results:  # else `find` looks again: somebody may have landed meanwhile
            self._results = results
            telemetry.count("aligner.cache.lookups", len(found), {"aligner.cache.hit": True})
        return True

    def _decoded(self, i: int, found: Mapping[bytes, str]) -> Any:
        text = found.get(self._keys[i])
        return None if text is None else _decode(self._kind, text, self._requests[i].answer)

    @property
    def missing(self) -> list[int]:
        """Places of requests without a result."""
        return [i for i, result in enumerate(self._results) if result is None]

    def join(self) -> None:
        """Begin what nobody has begun; what comes twice in a batch is begun once. `land` has to follow."""
        self.others = {}
        for i in self.missing:
            if i not in self._alone:
                flight, own = self._running.join(self._keys[i])
                (self._flights if own else self.others)[i] = flight

    def find(self) -> None:
        """Look in the store. May read a file."""
        found = self._store.get([self._keys[i] for i in self._flights])
        for i in self._flights:
            self._results[i] = self._decoded(i, found)
        telemetry.count("aligner.cache.lookups", len(found), {"aligner.cache.hit": True})
        telemetry.count("aligner.cache.lookups", len(self._flights) - len(found), {"aligner.cache.hit": False})

    def own(self) -> list[int]:
        """Places of requests that have to be run here."""
        return [i for i in self.missing if i not in self.others]

    def parts(self) -> list[Request]:
        """Requests that have to be run here."""
        return [self._requests[i] for i in self.own()]

    def known(self) -> str | None:
        """The text of the only request, if it is in the store."""
        if self.name():
            text = self._store.get(self._keys).get(self._keys[0])
            telemetry.count("aligner.cache.lookups", 1, {"aligner.cache.hit": text is not None})
            return text
        return None

    def take(self, results: Sequence[_Result | AlignerError]) -> None:
        """Take what came of them, and keep what is good. May write a file."""
        good: dict[int, str] = {}
        for i, result in zip(self.own(), results, strict=True):
            self._results[i] = result
            if self._keys and (text := _encode(result)) is not None:
                good[i] = text
        # Weights that were loaded only now may be newer than those that were asked for.
        if good and keys(self._backend, self._kind, [self._requests[i] for i in good]) == [self._keys[i] for i in good]:
            self._store.put({self._keys[i]: text for i, text in good.items()})

    def land(self, error: Exception | None = None) -> None:
        """Give what was begun here to those who wait for it: an error, too, or all of them would meet it one by one."""
        while self._flights:
            i, flight = self._flights.popitem()
            self._running.land(self._keys[i], flight, error if self._results[i] is None else self._results[i])

    def left(self, i: int) -> float | None:
        """Seconds until the deadline of a request."""
        return Deadline(self._requests[i].timeouts.deadline).left

    def wait(self) -> None:
        """Take what others' runs come to."""
        for i, flight in self.others.items():
            if flight.thread == threading.get_ident() and not flight.done():
                self._alone.add(
                    i
                )  # begun by somebody this very thread has interrupted, who cannot go on while it waits
                continue
            try:
                self._settle(i, threads.wait(flight, self.left(i)))
            except TimeoutError:
                self._settle(i, _late())

    async def await_others(self) -> None:
        """`wait` without blocking the event loop."""
        for i, flight in self.others.items():
            try:
                self._settle(i, await threads.awaited(flight, self.left(i)))
            except TimeoutError:
                self._settle(i, _late())

    def _settle(self, i: int, result: Any) -> None:
        """Take what somebody else's run came to; None: whoever ran it has gone, so it is begun again."""
        if isinstance(result, Exception) and not isinstance(result, BackendError | InputError | CorrectionError):
            raise result  # what was raised for all of a batch, as backends do if a model cannot be had
        if isinstance(result, Completion):
            result = replace(result, usage=Usage())  # its tokens are counted where it was run
        self._results[i] = result

    def late(self) -> list[_Result | AlignerError]:
        """One error a request: there was no time to look."""
        return [_late()] * len(self._requests)

    def done(self) -> list[_Result | AlignerError]:
        """One result a request, in order."""
        return self._results


def keys(backend: Backend, kind: Kind, requests: Sequence[Request]) -> list[bytes]:
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
        return result.text if good and is_encodable(result.text) else None
    if isinstance(result, Score):
        # Where its words are, and not the words: the answer is not ours to keep.
        tokens = [[t.start, t.end, t.logprob, t.gap, t.mark] for t in result.tokens]
        return json.dumps(
            [tokens, result.total, result.mean, result.minimum, result.max_gap, result.gate, dict(result.objections)]
        )
    return None


def _decode(kind: Kind, text: str, answer: str) -> Completion | Score | None:
    """The result that was kept for an answer; it takes no tokens. None: somebody else has written into the file."""
    if kind == "completion":
        return Completion(text, "stop")
    try:
        tokens, *numbers = json.loads(text)
        return Score(tuple(TokenScore(answer[start:end], start, end, *of) for start, end, *of in tokens), *numbers)
    except (ValueError, TypeError):
        return None


def _late() -> BackendError:
    return BackendError(
        "An equal request, whose text was waited for, was not done within the limit of this attempt.", retryable=True
    )
