"""What one call under `Resilience` has been through: what is tried again, when, and who is asked instead.

Nothing here waits or calls a backend: that is done in `resilient.py`, once for threads and once for event loops.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from aligner_integrations import telemetry
from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.request import Completion, Request, Timeouts
from aligner_integrations.backends.score import Score
from aligner_integrations.backends.wrappers.budget import Budget
from aligner_integrations.errors import OUTAGE, AlignerError, BackendError, ConfigurationError, ModelError

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# A server that wants to be left alone for longer, in seconds, is: the correction fails, and the error says for how long.
_LONGEST_WAIT = 60.0


class Fallback(Protocol):
    """Who is asked instead: an aligner, or a backend."""

    @property
    def rules(self) -> Rules | None:
        """The rules under which it is itself called."""

    def redirect(self, requests: Sequence[Request]) -> tuple[Backend, list[Request]]:
        """Return the backend to ask, and the requests in its own words. May look at files or ask a server."""


class Rules(Protocol):
    """How often and how long is tried; see `Resilience` for the words."""

    retries: int
    deadline: float | None
    timeout: float | None
    connect_timeout: float | None
    first_token_timeout: float | None
    backoff: float
    max_backoff: float
    budget: Budget | None
    fallbacks: Sequence[Fallback]


def refuse_circles(rules: Rules, around: tuple[Rules, ...] = ()) -> None:
    """Raise a ConfigurationError if fallbacks would ask each other for ever."""
    if any(rules is other for other in around):
        raise ConfigurationError(
            "These fallbacks go round in a circle: each asks the next. Leave one out of the last's."
        )
    for fallback in rules.fallbacks:
        if fallback.rules is not None:
            refuse_circles(fallback.rules, (*around, rules))


class Call(Generic[_Result]):
    """One call on its way; lives for that call only.

    Args:
        rules: How often and how long.
        requests: What is asked for.
    """

    def __init__(self, rules: Rules, requests: Sequence[Request]) -> None:
        self._rules = rules
        self._requests = requests
        self._results: list[Any] = [None] * len(requests)
        self._open: Sequence[int] = range(len(requests))
        self._lost: Sequence[int] = ()
        self._asked = ""
        self._attempts = 0
        self._retry_after = 0.0
        now = time.monotonic()
        total = math.inf if rules.deadline is None else now + rules.deadline
        self._ends = [total if r.timeouts.deadline is None else r.timeouts.deadline for r in self._requests]
        # A backend that hangs must leave its fallbacks some time.
        self._own_ends = [now + (end - now) / (1 + len(rules.fallbacks)) for end in self._ends]

    # Attempts -------------------------------------------------------------------------------------------------------

    def pause(self) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        if not self._open or self._attempts > self._rules.retries:
            return None
        wait = 0.0
        if self._attempts:
            telemetry.count(
                "aligner.retries", len(self._open), {"error.type": type(self._results[self._open[0]]).__name__}
            )
            most = min(self._rules.max_backoff, self._rules.backoff * 2.0 ** (self._attempts - 1))
            wait = self._retry_after + random.uniform(0, most)
        now = time.monotonic()
        self._open = [i for i in self._open if now + wait < self._own_ends[i]]
        return wait if self._open else None

    @property
    def deadline(self) -> Deadline:
        """When no request is left to try."""
        end = max(self._own_ends[i] for i in self._open)
        return Deadline(None if end == math.inf else end)

    def parts(self) -> list[Request]:
        """What to ask for in the next attempt."""
        now = time.monotonic()
        longest = math.inf if self._rules.timeout is None else now + self._rules.timeout
        return [self._limited(i, min(self._own_ends[i], longest)) for i in self._open]

    def _limited(self, i: int, end: float) -> Request:
        own, rules = self._requests[i].timeouts, self._rules
        limits = Timeouts(
            rules.connect_timeout if own.connect is None else own.connect,
            rules.first_token_timeout if own.first_token is None else own.first_token,
            None if end == math.inf else end,
        )
        return self._requests[i].within(limits)

    def take(self, results: Sequence[_Result | AlignerError]) -> bool:
        """Take what an attempt gave; return whether the backend failed in it: a batch of which something was done has not."""
        self._attempts += 1
        for i, result in zip(self._open, results, strict=True):
            self._results[i] = result
        asked, failed = self._open, [i for i in self._open if _try_again(self._results[i])]
        self._open = [i for i in failed if _wait_asked(self._results[i]) <= _LONGEST_WAIT]
        if self._rules.budget is not None and self._attempts <= self._rules.retries:
            done = sum(not isinstance(self._results[i], AlignerError) and i not in failed for i in asked)
            self._open = self._open[: self._rules.budget.spend(len(self._open), done)]
        self._retry_after = max((_wait_asked(self._results[i]) for i in self._open), default=0.0)
        if failed:
            kinds = sorted({type(self._results[i]).__name__ for i in failed})
            logger.info(
                "Attempt %d failed for %d of %d corrections, of which %d may be tried again: %s.",
                self._attempts,
                len(failed),
                len(asked),
                len(self._open),
                ", ".join(kinds),
            )
        return len(failed) == len(asked)

    def stop(self, error: Exception) -> None:
        """Try no more: what is not done has failed, with its own error if it has one."""
        for i in self._open:
            if self._results[i] is None and isinstance(error, AlignerError):
                self._results[i] = error
        self._open = ()

    # Fallbacks ------------------------------------------------------------------------------------------------------

    def fallbacks(self) -> Iterator[tuple[Fallback, list[Request]]]:
        """Yield who is to be asked for what is not done; `helped` takes what came of it."""
        for place, fallback in enumerate(self._rules.fallbacks):
            now = time.monotonic()
            self._lost = [i for i, result in enumerate(self._results) if _is_lost(result) and now < self._ends[i]]
            if self._lost:
                self._asked = f"{place + 1} ({type(fallback).__name__})"
                share = len(self._rules.fallbacks) - place
                yield fallback, [self._limited(i, now + (self._ends[i] - now) / share) for i in self._lost]

    def helped(self, results: Sequence[Any]) -> None:
        """Take what a fallback gave."""
        first = type(self._results[self._lost[0]]).__name__
        done = 0
        for i, result in zip(self._lost, results, strict=True):
            if isinstance(result, Completion) and result.text.strip():
                self._results[i] = replace(result, by_fallback=True)
                done += 1
        telemetry.count("aligner.fallbacks", done, {"error.type": first})
        failed = sorted({type(result).__name__ for result in results if isinstance(result, Exception)})
        logger.warning(
            "The backend failed (%s); fallback %s did %d of %d corrections%s.",
            first,
            self._asked,
            done,
            len(results),
            f", else: {', '.join(failed)}" if failed else "",
        )

    # Results --------------------------------------------------------------------------------------------------------

    def done(self) -> list[_Result | AlignerError]:
        """Return one result a request; a model that cannot be had at all is raised, as backends raise it."""
        results = self.so_far()
        for result in results:
            if isinstance(result, ModelError):
                raise result
        return results

    def so_far(self) -> list[_Result | AlignerError]:
        """Return one result a request, whatever it is."""
        return [_late() if result is None else result for result in self._results]

    def end(self) -> None:
        """Raise if the only request was not done."""
        (result,) = self.done()
        if isinstance(result, AlignerError):
            raise result


class Attempt:
    """One attempt of a stream, and whether another one may still take its place.

    That is so until something is shown. Blank text is held back, because a correction may begin with any.
    """

    def __init__(self) -> None:
        self._text = ""
        self._score: Score | None = None
        self.shown = False

    def feed(self, piece: str | Score) -> str | Score | None:
        """Take a piece; return what can be shown now."""
        if isinstance(piece, Score):
            self._score = piece
            return piece
        self._text += piece
        if self.shown or not self._text.strip():
            return piece if self.shown else None
        self.shown = True
        return self._text

    @property
    def result(self) -> Completion | Score:
        """What came of it: the text, or the score of an answer that was kept."""
        return self._score or Completion(self._text, "stop")


def _wait_asked(result: Any) -> float:
    """Seconds for which a server wants to be left alone."""
    return getattr(result, "retry_after", None) or 0.0


def _try_again(result: Any) -> bool:
    return result.retryable if isinstance(result, AlignerError) else _is_blank(result)


def _is_lost(result: Any) -> bool:
    return result is None or isinstance(result, OUTAGE) or _is_blank(result)


def _is_blank(result: Any) -> bool:
    return isinstance(result, Completion) and result.finish_reason == "stop" and not result.text.strip()


def _late() -> BackendError:
    return BackendError("The deadline of the correction passed before it could be tried.", retryable=True)
