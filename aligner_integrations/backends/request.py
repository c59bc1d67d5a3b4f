"""What a backend is asked, and what it says: one correction to run, how long that may take, and the text that came of it.

A gate's opinion of an answer is in `score.py`; who is asked, in `base.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from aligner_integrations.correction import Usage
from aligner_integrations.errors import TruncatedCorrectionError
from aligner_integrations.templates import Template


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


def require_end(completion: Completion, limit: int | None) -> None:
    """Refuse a completion that ran into the token limit.

    Raises:
        TruncatedCorrectionError: It did.
    """
    if completion.finish_reason == "length":
        of = "its token limit" if limit is None else f"its limit of {limit} tokens"
        raise TruncatedCorrectionError(f"The correction ran into {of} and is incomplete. Raise max_new_tokens.")
