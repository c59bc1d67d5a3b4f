"""The seam between `Aligner` and whatever runs an aligner: the base class of backends, and the public fake.

A backend turns a rendered prompt into a completion. It knows no framework and no policy: what is skipped, kept,
accepted or blocked is decided in `policy.py`. The values that go through the seam are in `request.py` and `score.py`, and can be
had from here, too.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from types import MappingProxyType
from typing import Any, Protocol, TypeGuard, TypeVar

from aligner_integrations.backends.request import Completion, Request, Timeouts, require_end
from aligner_integrations.backends.score import Keep, Score, TokenScore
from aligner_integrations.errors import OUTAGE, AlignerError, BackendError
from aligner_integrations.templates import Template

__all__ = [
    "INTERNAL_TAG",
    "Backend",
    "Completion",
    "FakeBackend",
    "Keep",
    "Reader",
    "Request",
    "Score",
    "Timeouts",
    "TokenScore",
    "closing_at_end",
]

_Item = TypeVar("_Item")

INTERNAL_TAG = "aligner:internal"
"""On a run, where a framework has runs, that belongs to an aligner's own work: nothing in it is the user's upstream."""


class Reader(Protocol):
    """Reads an answer while the upstream still writes it."""

    def feed(self, piece: str) -> None:
        """Take the next piece of the answer. Never waits, whether called by a thread or an event loop."""

    def close(self) -> None:
        """Stop, and free what was read."""


class Backend(ABC):
    """One way to run an aligner. A subclass has `complete` and `acomplete`; the rest is for those that can do more."""

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def template(self) -> Template | None:
        """The template its checkpoint was trained with; None if it cannot know."""
        return None

    @property
    def gate(self) -> float | None:
        """Threshold of its own gate; None if it has none."""
        return None

    @property
    def objections(self) -> Mapping[str, float]:
        """Of `WHOLE`, what its gate knows -> the threshold of its own; what scores no more than that is not objected to."""
        return {}

    @property
    def minimal(self) -> bool:
        """Whether its aligner says of itself that it makes minimal edits, and leaves all else of an answer to the letter."""
        return False

    @property
    def can_score(self) -> bool | None:
        """Whether `score` works; None: a server would have to say, and could not be asked."""
        return False

    concurrency: int | None = None
    """Most requests on the way at once, of all callers together, on a server; None: it runs here, and likes batches."""

    @property
    def cpu_threads(self) -> int | None:
        """Threads of this process's CPU that sum up its numbers, which shows in their last digits; None: no such threads."""
        return None

    @property
    def judges_streams(self) -> bool:
        """Whether `stream_unless` judges while it streams, instead of before."""
        return False

    @property
    def may_fall_back(self) -> bool:
        """Whether a text may come from another aligner, so that a failed `score` does not mean a failed correction."""
        return False

    @property
    def fingerprint(self) -> list[Any] | None:
        """What decides its texts, as plain data; None if it cannot tell. See `Cache`. May read files or ask a server."""
        return None

    def load(self) -> None:  # noqa: B027 - not every backend has something to do here
        """Get ready; otherwise that happens at the first call."""

    def forget(self) -> None:  # noqa: B027 - as above
        """Free what is kept of earlier texts to go on from, which can show in a score's last digits."""

    def close(self) -> None:  # noqa: B027 - as above
        """Give back what threads use, such as connections. It may be used again after that."""

    async def aclose(self) -> None:
        """`close` for what event loops use, too."""
        self.close()

    # Corrections ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Run a batch: one result a request, in order; a request that fails gets its error in its place."""

    @abstractmethod
    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it stops the work."""

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the completion's text as it is written, or whole; raises TruncatedCorrectionError at the token limit."""
        yield _whole(self.complete([request]), request)

    async def astream(self, request: Request) -> AsyncIterator[str]:
        """`stream` without blocking the event loop; closing it stops the work."""
        yield _whole(await self.acomplete([request]), request)

    def prefill(self, prompt: Callable[[str], str]) -> Reader | None:
        """Return what reads a prompt's beginning before the rest is known; None if this backend does not. See `prefill.py`.

        What it has read is found again by `complete`, `stream` and `score`, which are called as they are without it.

        Args:
            prompt: Returns the prompt as far as it is known, given the answer as far as it is. May take a while.
        """
        return None

    @property
    def rules(self) -> Any:
        """The rules of `Resilience` under which it is called, if it is a fallback; None: as it is."""
        return None

    def redirect(self, requests: Sequence[Request]) -> tuple[Backend, list[Request]]:
        """Return what is asked if this is another backend's fallback: itself, in the words of its own template."""
        template = self.template
        return self, [request if template is None else request.through(template) for request in requests]

    # The gate -------------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge each request's answer as if it were its own correction.

        Raises:
            BackendError: This backend has no probabilities.
        """
        raise BackendError(
            f"{type(self).__name__} has no score: it does not show how likely its aligner is to repeat an answer. Give gate= a "
            "function, or run the aligner's weights here or on a server that shows log-probabilities of prompts, such as vLLM."
        )

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""
        return await asyncio.to_thread(self.score, requests)

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept: then the pieces are those of the answer, and its score is the last item.

        A backend that `judges_streams` shows what correction and answer begin with alike before that is decided. `keep` is
        called on any thread.
        """
        (score,) = self.score([request])
        if self._keeps(score, keep):
            yield request.answer
            yield score
        else:
            yield from self.stream(request)

    async def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop; closing it stops the work."""
        (score,) = await self.ascore([request])
        if self._keeps(score, keep):
            yield request.answer
            yield score
            return
        async with closing_at_end(self.astream(request)) as pieces:
            async for piece in pieces:
                yield piece

    def _keeps(self, score: Score | AlignerError, keep: Keep) -> TypeGuard[Score]:
        if not isinstance(score, AlignerError):
            return bool(keep(score, True))
        # Nobody can judge the answer, but a fallback can still correct it.
        if not (self.may_fall_back and isinstance(score, OUTAGE)):
            raise score
        return False


def _whole(results: list[Completion | AlignerError], request: Request) -> str:
    """The text of the only result; raises what stands in its place."""
    (result,) = results
    if isinstance(result, AlignerError):
        raise result
    require_end(result, request.max_new_tokens)
    return result.text


def closing_at_end(pieces: AsyncIterator[_Item]) -> AbstractAsyncContextManager[AsyncIterator[_Item]]:
    """Close an asynchronous iterator when the block ends, if it can be: generators are otherwise closed some time later."""
    return aclosing(pieces) if isinstance(pieces, AsyncGenerator) else nullcontext(pieces)


class FakeBackend(Backend):
    """A backend for tests: `fn(prompt)` is the correction. Streams whole words; has no score.

    Example:
        >>> Aligner(backend=FakeBackend(lambda prompt: "a better answer"), template="aligner-7b")
    """

    # Attributes here, so that a test can set them.
    template: Template | None = None
    gate: float | None = None
    objections: Mapping[str, float] = MappingProxyType({})
    minimal: bool = False
    can_score: bool | None = False
    fingerprint: list[Any] | None = None

    def __init__(self, fn: Callable[[str], str]) -> None:
        self.fn = fn

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Call `fn` for each prompt; an exception becomes that request's error."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Completion | AlignerError:
        try:
            return Completion(self.fn(request.prompt), "stop")
        except AlignerError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a fake stands for any backend, and those fail in any way
            failure = BackendError(f"The fake backend's function raised {type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Same as `complete`."""
        return self.complete(requests)

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the words of the correction with the white space after them."""
        yield from re.findall(r"\s*\S+\s*", _whole([self._one(request)], request))

    async def astream(self, request: Request) -> AsyncIterator[str]:
        """Same as `stream`."""
        for piece in self.stream(request):
            yield piece

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Same as `score`, for fakes that have one."""
        return self.score(requests)
