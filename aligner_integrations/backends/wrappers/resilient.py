"""Staying up: time limits, retries, a circuit breaker, a limit on what runs at once, and fallbacks, for any backend.

`Resilience` is what users make and share; `ResilientBackend` is one backend under it. Backends never try again by
themselves. What lives elsewhere: what is tried again and who is asked instead (`retry.py`), when the breaker opens
(`breaker.py`), who is next (`semaphore.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar, cast

from aligner_integrations import threads
from aligner_integrations.backends.base import Backend, closing_at_end
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.request import Completion, Request, Timeouts
from aligner_integrations.backends.score import Keep, Score
from aligner_integrations.backends.semaphore import Semaphore
from aligner_integrations.backends.wrappers.base import Wrapper
from aligner_integrations.backends.wrappers.breaker import Breaker, Watch
from aligner_integrations.backends.wrappers.budget import Budget
from aligner_integrations.backends.wrappers.retry import Attempt, Call, Fallback, refuse_circles
from aligner_integrations.errors import (
    OUTAGE,
    AlignerError,
    BackendError,
    CircuitOpenError,
    ConfigurationError,
    OverloadedError,
)

_Result = TypeVar("_Result", Completion, Score)
_Ask = Callable[[Sequence[Request]], list[_Result | AlignerError]]
_AsyncAsk = Callable[[Sequence[Request]], Awaitable[list[_Result | AlignerError]]]

# Seconds; clocks and locks can wait for no more than some centuries.
_LONGEST = 1e8


class Resilience:
    """How a backend is called so that its outages stay its own. Aligners that share one share its breaker and its limit.

    Args:
        retries: How often a request that failed is tried again: after cut connections, time limits, statuses such as 429
            and 500, malformed and empty responses. Waits are random (full jitter), and never shorter than a server asks.
        deadline: Seconds for a whole correction, with all waiting and trying, in which it is done or failed.
        timeout: Seconds for one attempt; None: only the deadline counts.
        connect_timeout: Seconds to reach a server.
        first_token_timeout: Seconds to the first token of a completion; what does not stream has to be there by then.
        backoff: Seconds that the first wait takes at most; each further one twice as many, up to `max_backoff`.
        max_backoff: Seconds that a wait takes at most, unless a server asks for more.
        concurrency: Most calls of the backend at once, from threads and event loops together; None: no limit. Who waits
            for a turn has only the deadline to watch, so let no more in than the backend takes.
        breaker: When a failing backend is left alone. None: when nine in ten of at least 20 calls failed. False: never.
        budget: How many requests may be tried again at all. None: one for each that succeeds, see `Budget`. False: as many
            as `retries` says, whatever state the backend is in.
        fallbacks: Aligners or backends that are asked, in this order, for what the backend could not do. An aligner is
            asked with its own template, which takes no fields besides question and answer; a backend with its own
            template, or with the same prompt if it knows none. Each gets an equal share of the time that is left.

    Raises:
        ConfigurationError: A number that makes no sense.
    """

    def __init__(
        self,
        *,
        retries: int = 4,
        deadline: float | None = 120.0,
        timeout: float | None = 60.0,
        connect_timeout: float | None = 5.0,
        first_token_timeout: float | None = None,
        backoff: float = 0.5,
        max_backoff: float = 8.0,
        concurrency: int | None = 64,
        breaker: Breaker | Literal[False] | None = None,
        budget: Budget | Literal[False] | None = None,
        fallbacks: Sequence[Fallback] = (),
    ) -> None:
        if retries < 0:
            raise ConfigurationError(f"retries is {retries}; it must be 0 or more.")
        if concurrency is not None and concurrency < 1:
            raise ConfigurationError(f"concurrency is {concurrency}; it must be at least 1, or None for no limit.")
        limits = {
            "deadline": deadline,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "first_token_timeout": first_token_timeout,
            "backoff": backoff,
            "max_backoff": max_backoff,
        }
        for name, seconds in limits.items():
            if seconds is not None and not 0 < seconds <= _LONGEST:
                raise ConfigurationError(
                    f"{name} is {seconds}; it takes seconds above 0 and up to {_LONGEST:,.0f}, or None for no limit."
                )
        _check_kinds(breaker, budget, fallbacks)
        self.retries = retries
        self.deadline = deadline
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.first_token_timeout = first_token_timeout
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.concurrency = concurrency
        self.breaker = Breaker() if breaker is None else breaker or None
        self.budget = Budget() if budget is None else budget or None
        self.fallbacks: Sequence[Fallback] = tuple(fallbacks)
        self.slots = None if concurrency is None else Semaphore(concurrency)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Copies and pickles have the same settings, and a breaker and a limit of their own."""
        settings = {name: value for name, value in vars(self).items() if name != "slots"}
        return partial(Resilience, **{**settings, "breaker": self.breaker or False, "budget": self.budget or False}), ()

    def __repr__(self) -> str:
        """Show the settings that are not the default."""
        plain = inspect.signature(Resilience).parameters
        simple = ["retries", "deadline", "timeout", "connect_timeout", "first_token_timeout", "backoff", "max_backoff"]
        simple.append("concurrency")
        shown = [f"{name}={value!r}" for name in simple if (value := getattr(self, name)) != plain[name].default]
        shown += [f"{name}=False" for name in ("breaker", "budget") if getattr(self, name) is None]
        shown += [f"fallbacks={list(self.fallbacks)!r}"] if self.fallbacks else []
        return f"Resilience({', '.join(shown)})"

    def wrap(self, backend: Backend) -> ResilientBackend:
        """Return the backend under these rules.

        Raises:
            ConfigurationError: The fallbacks ask each other.
        """
        refuse_circles(self)
        return ResilientBackend(backend, self)

    def timeouts(self, started: float) -> Timeouts:
        """Return the limits of a correction that started at this point of `time.monotonic()`."""
        deadline = None if self.deadline is None else started + self.deadline
        return Timeouts(self.connect_timeout, self.first_token_timeout, deadline)

    def wait(self, deadline: Deadline) -> None:
        """Wait for a slot; `turn` has to follow at once.

        Raises:
            CircuitOpenError: The backend is left alone.
            OverloadedError: No slot was free before the deadline.
        """
        if self.breaker is not None:
            self.breaker.check()
        if self.slots is not None and not self.slots.acquire(deadline.left):
            raise self._no_slot()

    async def await_turn(self, deadline: Deadline) -> None:
        """`wait` without blocking the event loop."""
        if self.breaker is not None:
            self.breaker.check()
        if self.slots is not None and not await self.slots.aacquire(deadline.left):
            raise self._no_slot()

    @contextmanager
    def turn(self) -> Iterator[Watch]:
        """Make one call under the breaker's eyes, and give the slot back that was waited for.

        Raises:
            CircuitOpenError: The backend is left alone by now.
        """
        try:
            with self._watch() as watch:
                yield watch
        finally:
            if self.slots is not None:
                self.slots.release()

    def _watch(self) -> AbstractContextManager[Watch]:
        return self.breaker.watch() if self.breaker is not None else nullcontext(Watch())

    def _no_slot(self) -> OverloadedError:
        return OverloadedError(
            f"The correction waited until its deadline while {self.concurrency} others were on their way, as many as "
            "`concurrency` allows. Raise it if the backend can take more.",
            retryable=True,
        )


def _check_kinds(breaker: Any, budget: Any, fallbacks: Any) -> None:
    for name, value, kind in (("breaker", breaker, Breaker), ("budget", budget, Budget)):
        if not (value is None or value is False or isinstance(value, kind)):
            raise ConfigurationError(f"{name} is {value!r}; it takes a {kind.__name__}, False for none, or None.")
    several = not isinstance(fallbacks, str) and isinstance(fallbacks, Sequence)
    if not several or not all(hasattr(one, "redirect") for one in fallbacks):
        raise ConfigurationError("fallbacks takes a list of aligners and backends, such as [Aligner()].")


class ResilientBackend(Wrapper):
    """A backend that is called as `Resilience` says."""

    def __init__(self, inner: Backend, resilience: Resilience) -> None:
        super().__init__(inner)
        self.resilience = resilience

    @property
    def rules(self) -> Resilience:
        """How the inner backend is called."""
        return self.resilience

    @property
    def may_fall_back(self) -> bool:
        """Whether a text may come from another aligner."""
        return bool(self.resilience.fallbacks)

    # Batches --------------------------------------------------------------------------------------------------------

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Run a batch; what fails is tried again, then left to the fallbacks."""
        call = Call[Completion](self.resilience, requests)
        self._try(call, self.inner.complete)
        for fallback, parts in call.fallbacks():
            try:
                backend, parts = fallback.redirect(parts)
                call.helped(backend.complete(parts))
            except AlignerError as error:
                call.helped([error] * len(parts))
        return call.done()

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it stops the work."""
        call = Call[Completion](self.resilience, requests)
        await self._atry(call, self.inner.acomplete)
        for fallback, parts in call.fallbacks():
            try:
                backend, parts = await _redirected(fallback, parts)
                call.helped(await _in_time(backend.acomplete, parts))
            except AlignerError as error:
                call.helped([error] * len(parts))
        return call.done()

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge answers, which fallbacks cannot: their probabilities are not this aligner's."""
        call = Call[Score](self.resilience, requests)
        self._try(call, self.inner.score)
        return call.so_far() if self.resilience.fallbacks else call.done()

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        call = Call[Score](self.resilience, requests)
        await self._atry(call, self.inner.ascore)
        return call.so_far() if self.resilience.fallbacks else call.done()

    def _try(self, call: Call[_Result], ask: _Ask[_Result]) -> None:
        while (pause := call.pause()) is not None:
            if pause:
                time.sleep(pause)
            try:
                self.resilience.wait(call.deadline)
                with self.resilience.turn() as turn:
                    parts = call.parts()
                    try:
                        turn.failed = call.take(ask(parts))
                    except OUTAGE as error:
                        turn.failed = call.take([error] * len(parts))
            except (CircuitOpenError, OverloadedError) as error:
                call.stop(error)

    async def _atry(self, call: Call[_Result], ask: _AsyncAsk[_Result]) -> None:
        while (pause := call.pause()) is not None:
            if pause:
                await asyncio.sleep(pause)
            try:
                await self.resilience.await_turn(call.deadline)
                with self.resilience.turn() as turn:
                    parts = call.parts()
                    try:
                        turn.failed = call.take(await _in_time(ask, parts))
                    except OUTAGE as error:
                        turn.failed = call.take([error] * len(parts))
            except (CircuitOpenError, OverloadedError) as error:
                call.stop(error)

    # Streams --------------------------------------------------------------------------------------------------------

    def stream(self, request: Request) -> Iterator[str]:
        """Yield text as it is written. A stream that breaks is tried again, and left to the fallbacks, until it shows something."""
        return cast("Iterator[str]", self._pieces(request, self.inner.stream))

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept; a fallback's text is not judged."""
        if not self.judges_streams:
            return super().stream_unless(request, keep)
        return self._pieces(request, lambda part: self.inner.stream_unless(part, keep))

    def astream(self, request: Request) -> AsyncIterator[str]:
        """`stream` without blocking the event loop; closing it stops the work."""
        return cast("AsyncIterator[str]", self._apieces(request, self.inner.astream))

    def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop; closing it stops the work."""
        if not self.judges_streams:
            return super().astream_unless(request, keep)
        return self._apieces(request, lambda part: self.inner.astream_unless(part, keep))

    def _pieces(self, request: Request, ask: Callable[[Request], Iterator[Any]]) -> Iterator[str | Score]:
        call = Call[Completion | Score](self.resilience, [request])
        while (pause := call.pause()) is not None:
            if pause:
                time.sleep(pause)
            attempt = Attempt()
            try:
                self.resilience.wait(call.deadline)
                with self.resilience.turn() as turn:
                    try:
                        for piece in ask(*call.parts()):
                            if shown := attempt.feed(piece):
                                yield shown
                        turn.failed = call.take([attempt.result])
                    except OUTAGE as error:
                        turn.failed = call.take([error])
                        if attempt.shown:
                            raise
            except (CircuitOpenError, OverloadedError) as error:
                call.stop(error)
        for fallback, parts in call.fallbacks():
            attempt = Attempt()
            try:
                backend, parts = fallback.redirect(parts)
                for piece in backend.stream(*parts):
                    if shown := attempt.feed(piece):
                        yield shown
                call.helped([attempt.result])
            except AlignerError as error:
                call.helped([error])
                if attempt.shown:
                    raise
        call.end()

    async def _apieces(
        self, request: Request, ask: Callable[[Request], AsyncIterator[Any]]
    ) -> AsyncIterator[str | Score]:
        call = Call[Completion | Score](self.resilience, [request])
        while (pause := call.pause()) is not None:
            if pause:
                await asyncio.sleep(pause)
            attempt = Attempt()
            try:
                await self.resilience.await_turn(call.deadline)
                with self.resilience.turn() as turn:
                    try:
                        async with closing_at_end(ask(*call.parts())) as pieces:
                            async for piece in pieces:
                                if shown := attempt.feed(piece):
                                    yield shown
                        turn.failed = call.take([attempt.result])
                    except OUTAGE as error:
                        turn.failed = call.take([error])
                        if attempt.shown:
                            raise
            except (CircuitOpenError, OverloadedError) as error:
                call.stop(error)
        for fallback, parts in call.fallbacks():
            attempt = Attempt()
            try:
                backend, parts = await _redirected(fallback, parts)
                async with closing_at_end(backend.astream(*parts)) as pieces:
                    async for piece in pieces:
                        if shown := attempt.feed(piece):
                            yield shown
                call.helped([attempt.result])
            except AlignerError as error:
                call.helped([error])
                if attempt.shown:
                    raise
        call.end()


async def _redirected(fallback: Fallback, parts: Sequence[Request]) -> tuple[Backend, list[Request]]:
    """Ask a fallback for its backend and its words, off the event loop: it may have to ask a server."""
    try:
        return await threads.arun(partial(fallback.redirect, parts), Deadline.latest(p.timeouts for p in parts).left)
    except TimeoutError:
        raise BackendError("The fallback was not ready in time.", retryable=True) from None


async def _in_time(ask: _AsyncAsk[_Result], parts: Sequence[Request]) -> list[_Result | AlignerError]:
    """Ask, and cancel it at the deadline, should the backend not keep to it by itself."""
    try:
        async with asyncio.timeout(Deadline.latest(part.timeouts for part in parts).left):
            return await ask(parts)
    except TimeoutError:
        return [BackendError("The backend did not answer in time.", retryable=True)] * len(parts)
