"""The seam between `Aligner` and whatever runs an aligner: its values, the base class of backends, and the public fake.

A backend turns a rendered prompt into a completion. It knows no framework and no policy: what is skipped, kept,
accepted or blocked is decided in `policy.py`.
"""

from __future__ import annotations

import asyncio
import html
import math
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeGuard, TypeVar

from aligner_integrations.correction import Usage
from aligner_integrations.errors import OUTAGE, AlignerError, BackendError, TruncatedCorrectionError
from aligner_integrations.heat import heat
from aligner_integrations.templates import Template

_Item = TypeVar("_Item")

INTERNAL_TAG = "aligner:internal"
"""On a run, where a framework has runs, that belongs to an aligner's own work: nothing in it is the user's upstream."""


RUDE = "rude"
"""What a gate by words objects to: each token has a mark, and where it stands is known."""

WHOLE = ("hateful", "harmful")
"""What a gate can object to in an answer as a whole: that it insults, threatens or hates, with whatever words; that it helps with harm."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a request may take; None: as long as it takes. A backend that runs into one raises a retryable BackendError.

    Attributes:
        connect: Seconds to reach a server.
        first_token: Seconds to the first token of the completion.
        deadline: Point of `time.monotonic()` at which the request is given up, whatever it is doing.
    """

    connect: float | None = None
    first_token: float | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One correction to run.

    Attributes:
        question: The user's words.
        answer: The answer to correct; also the draft that decoding may start from.
        prompt: The rendered template.
        completion_prefix: White space between prompt and completion (`Template.completion_prefix`).
        max_new_tokens: Longest completion in tokens; None lets the backend choose by `completion_limit`.
        timeouts: How long it may take.
    """

    question: str
    answer: str
    prompt: str
    completion_prefix: str = ""
    max_new_tokens: int | None = None
    timeouts: Timeouts = Timeouts()

    def within(self, timeouts: Timeouts) -> Request:
        """Return the same request under other limits."""
        return Request(self.question, self.answer, self.prompt, self.completion_prefix, self.max_new_tokens, timeouts)

    def through(self, template: Template, max_new_tokens: int | None = None) -> Request:
        """Return the same request in the words of another template; its limit stays unless there is another one."""
        return replace(
            self,
            prompt=template.render(self.question, self.answer),
            completion_prefix=template.completion_prefix,
            max_new_tokens=max_new_tokens or self.max_new_tokens,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What the aligner wrote: its text with outer white space as it came, and whether it ended by itself.

    Attributes:
        text: The text.
        finish_reason: `"stop"` if the aligner ended it, `"length"` if it ran into its limit.
        usage: Tokens it took.
        by_fallback: Whether another aligner wrote it, because the backend could not (`Resilience(fallbacks=...)`).
    """

    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage = Usage()
    by_fallback: bool = False


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How the aligner judges one token of an answer, were it to repeat the answer to the letter.

    Attributes:
        text: The token's text.
        start: Its first character in the answer.
        end: One past its last character in the answer.
        logprob: Log-probability of the token in nats.
        gap: By how much the aligner prefers another token, in nats; 0 if this one is its first choice.
        mark: The gate probe's logit that this token wants correction; None without a probe.
    """

    text: str
    start: int
    end: int
    logprob: float
    gap: float
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How the aligner judges a whole answer, in one forward pass.

    Attributes:
        tokens: Each token of the answer; the last one is the end token, with empty text.
        total: Sum of the log-probabilities in nats.
        mean: Mean log-probability in nats a token.
        minimum: Smallest log-probability in nats.
        max_gap: Largest gap in nats; 0 means the aligner would repeat the answer to the letter.
        gate: The probe's score of the answer, its largest mark (a logit); None without a probe.
        objections: Of `WHOLE`, what the gate knows -> its logit for the answer, question included; of a whole answer only.
    """

    tokens: tuple[TokenScore, ...]
    total: float
    mean: float
    minimum: float
    max_gap: float
    gate: float | None = None
    objections: Mapping[str, float] = field(default_factory=dict)

    @property
    def judgement(self) -> float:
        """What a gate compares with its threshold: the probe's score, or without a probe the largest gap."""
        return self.max_gap if self.gate is None else self.gate

    def marked(self, threshold: float) -> tuple[TokenScore, ...]:
        """Return the tokens the probe objects to, or without a probe those whose gap exceeds the threshold."""
        return tuple(t for t in self.tokens if (t.gap if t.mark is None else t.mark) > threshold)

    def to_html(self) -> str:
        """Render the answer as escaped HTML, each word the redder the more the aligner objects to it.

        With a probe, as red as it is sure that the word wants correction; without, as the aligner is sure of another token.
        """
        return heat(
            (t.start, t.text, 1 - math.exp(-t.gap) if t.mark is None else (1 + math.tanh(t.mark / 2)) / 2)
            for t in self.tokens
        )

    def _repr_html_(self) -> str:
        """Shown by notebooks: the numbers, and where the aligner objects."""
        return (
            f'<div style="opacity: 0.7; font-size: smaller">{html.escape(self._told())}</div>'
            f'<div style="white-space: pre-wrap">{self.to_html()}</div>'
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shown by IPython in a terminal: the numbers."""
        printer.text(self._told())

    def _told(self) -> str:
        return ", ".join(
            f"{name} {number:.1f}" for name, number in {"score": self.judgement, **self.objections}.items()
        )

    def objects(self, thresholds: Mapping[str, float]) -> tuple[str, ...]:
        """Return what the gate objects to in the answer as a whole, given a threshold for each of these kinds."""
        return tuple(kind for kind, most in thresholds.items() if self.objections.get(kind, -math.inf) > most)


class Reader(Protocol):
    """Reads an answer while the upstream still writes it."""

    def feed(self, piece: str) -> None:
        """Take the next piece of the answer. Never waits, whether called by a thread or an event loop."""

    def close(self) -> None:
        """Stop, and free what was read."""


Keep = Callable[[Score, bool], bool | None]
"""(score of the answer's tokens read so far, whether that is all of them) -> whether the answer is kept; None: not known yet,
which is no reply to a whole score."""


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


def require_end(completion: Completion, limit: int | None) -> None:
    """Refuse a completion that ran into the token limit.

    Raises:
        TruncatedCorrectionError: It did.
    """
    if completion.finish_reason == "length":
        of = "its token limit" if limit is None else f"its limit of {limit} tokens"
        raise TruncatedCorrectionError(f"The correction ran into {of} and is incomplete. Raise max_new_tokens.")


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
