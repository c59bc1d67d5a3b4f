"""The seam between `Aligner` and whatever runs an aligner: four values, one protocol, and the public fake.

A backend turns a rendered prompt into a completion. It knows no framework and no policy: what is skipped, kept,
accepted or blocked is decided in `aligner.py`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from aligner_integrations.correction import Usage
from aligner_integrations.errors import AlignerError, AnswerTooLongError, BackendError
from aligner_integrations.templates import Template

INTERNAL_TAG = "aligner:internal"
"""On a run, where a framework has runs, that belongs to an aligner's own work: nothing in it is the user's upstream."""


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
    """

    tokens: tuple[TokenScore, ...]
    total: float
    mean: float
    minimum: float
    max_gap: float
    gate: float | None = None

    def marked(self, threshold: float) -> tuple[TokenScore, ...]:
        """Return the tokens the probe objects to, or without a probe those whose gap exceeds the threshold."""
        return tuple(t for t in self.tokens if (t.gap if t.mark is None else t.mark) > threshold)


@runtime_checkable
class Backend(Protocol):
    """One way to run an aligner."""

    @property
    def template(self) -> Template | None:
        """The template its checkpoint was trained with; None if it cannot know."""

    @property
    def gate(self) -> float | None:
        """Threshold of its own gate; None if it has none."""

    @property
    def can_score(self) -> bool:
        """Whether `score` works."""

    def load(self) -> None:
        """Get ready; otherwise that happens at the first call."""

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Run a batch: one result a request, in order; a request that fails gets its error in its place."""

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """`complete` without blocking the event loop; cancelling it stops the work."""

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the completion's text as it is written; raises TruncatedCorrectionError at the token limit."""

    def astream(self, request: Request) -> AsyncIterator[str]:
        """`stream` without blocking the event loop; closing it stops the work."""

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Judge each request's answer as if it were its own correction."""

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """`score` without blocking the event loop."""


class Reader(Protocol):
    """Reads an answer while the upstream still writes it."""

    def feed(self, piece: str) -> None:
        """Take the next piece of the answer. Never waits, whether called by a thread or an event loop."""

    def close(self) -> None:
        """Stop, and free what was read."""


@runtime_checkable
class ReadsAhead(Protocol):
    """What a backend may have besides: it reads a prompt's beginning before the rest is known; see `backends/prefill.py`."""

    def ahead(self, prompt: Callable[[str], str]) -> Reader | None:
        """Return a reader for one answer, or None.

        What it has read is found again by `complete`, `stream` and `score`, which are called as they are without it.

        Args:
            prompt: Returns the prompt as far as it is known, given the answer as far as it is. May take a while.
        """


Keep = Callable[[Score, bool], bool | None]
"""(score of the answer's tokens read so far, whether that is all of them) -> whether the answer is kept; None: not known yet,
which is no reply to a whole score."""


@runtime_checkable
class JudgesStreams(Protocol):
    """What a backend may have besides: it judges an answer while it streams, instead of before."""

    def stream_unless(self, request: Request, keep: Keep) -> Iterator[str | Score]:
        """`stream`, unless the answer is kept: then the pieces are those of the answer, and its score is the last item.

        What correction and answer begin with alike comes before that is decided. `keep` is called on any thread.
        """

    def astream_unless(self, request: Request, keep: Keep) -> AsyncIterator[str | Score]:
        """`stream_unless` without blocking the event loop; closing it stops the work."""


def completion_limit(window: int | None, prompt_tokens: int, answer_tokens: int, requested: int | None) -> int:
    """Return how many tokens a completion may have.

    Args:
        window: The model's context in tokens; None if it has no limit.
        prompt_tokens: Tokens of the prompt.
        answer_tokens: Tokens of the answer.
        requested: The user's `max_new_tokens`, or None for max(320, twice the answer + 64).

    Raises:
        AnswerTooLongError: The window has no room to give the answer back as it is.
    """
    wanted = max(320, 2 * answer_tokens + 64) if requested is None else requested
    if window is None:
        return wanted
    if prompt_tokens + answer_tokens + 1 > window:
        raise AnswerTooLongError(
            f"Question and answer take {prompt_tokens} tokens and the answer alone {answer_tokens}; a correction of the "
            f"same length does not fit the aligner's window of {window} tokens. Shorten the answer, or set on_overflow."
        )
    return min(window - prompt_tokens, wanted)


class FakeBackend:
    """A backend for tests: `fn(prompt)` is the correction. Streams whole words; has no score.

    Example:
        >>> Aligner(backend=FakeBackend(lambda prompt: "a better answer"), template="aligner-7b")
    """

    template: Template | None = None
    gate: float | None = None
    can_score: bool = False

    def __init__(self, fn: Callable[[str], str]) -> None:
        self.fn = fn

    def load(self) -> None:
        """Nothing to load."""

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
        result = self._one(request)
        if isinstance(result, AlignerError):
            raise result
        yield from re.findall(r"\s*\S+\s*", result.text)

    async def astream(self, request: Request) -> AsyncIterator[str]:
        """Same as `stream`."""
        for piece in self.stream(request):
            yield piece

    def score(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Raise: a fake has no probabilities."""
        raise BackendError("FakeBackend has no score; use a real backend for gates by score.")

    async def ascore(self, requests: Sequence[Request]) -> list[Score | AlignerError]:
        """Raise: a fake has no probabilities."""
        return self.score(requests)
