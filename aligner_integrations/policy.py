"""What is decided about a correction: leave it alone, take it, put it right, refuse it, and what is shown if there is none.

All policy of the package. What lives elsewhere: the way of a correction, and how a backend is asked (`aligner.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from aligner_integrations import telemetry
from aligner_integrations.backends.base import Backend, Completion, Keep, Score
from aligner_integrations.correction import Correction, Outcome, Usage
from aligner_integrations.edits import keep_unmarked
from aligner_integrations.errors import (
    OUTAGE,
    AlignerError,
    AnswerTooLongError,
    BackendError,
    ConfigurationError,
    CorrectionError,
    EmptyCorrectionError,
    InputError,
    RejectedCorrectionError,
    TruncatedCorrectionError,
)

if TYPE_CHECKING:
    from aligner_integrations.backends.wrappers.resilient import Resilience

Policy = Literal["raise", "keep", "block"]
"""What to do when there is no correction to show: raise, show the answer as it is, or show `block_message`."""

Gate = Callable[[str, str, Score | None], bool]
"""(question, answer, score) -> whether the answer is kept without a correction. No score: the backend has none."""

Accept = Callable[[str, str, str], bool | Awaitable[bool]]
"""(question, answer, correction) -> whether the correction may be shown. A coroutine function: for the async verbs."""

Repair = Callable[[str, str], str]
"""(answer, correction) -> the correction with what it must not touch put right; RejectedCorrectionError refuses it."""

BLOCK_MESSAGE = "This answer was withheld because it could not be corrected."


@dataclass(slots=True)
class Job:
    """State of one correction while it runs. Lives for one call only."""

    question: Any
    answer: Any
    fields: dict[str, str]
    text: Any
    started: float
    rounds: int = 0
    usage: Usage = field(default_factory=Usage)
    score: Score | None = None
    reason: str | None = None
    error: AlignerError | None = None
    skipped: bool = False
    done: bool = False

    def stop(self, reason: str | None = None) -> None:
        """No further round; the reason counts only if nothing was corrected before."""
        self.done = True
        if not self.rounds or self.text == self.answer:
            self.reason = reason

    def fail(self, error: AlignerError) -> None:
        """No further round; the policy decides what is shown."""
        self.done = True
        self.error = error


class Decisions:
    """The part of `Aligner` that decides; its docstring says what the options mean. Nothing of a call is kept on the object.

    Attributes:
        backend: What is asked for scores; `Aligner` sets it.
    """

    backend: Backend

    def __init__(
        self,
        *,
        gate: float | Literal[False] | Gate | None,
        accept: Accept | None,
        repair: Repair | None,
        rounds: int,
        max_new_tokens: int | None,
        on_error: Policy,
        on_overflow: Policy,
        on_reject: Policy,
        structured: bool,
        edits: Literal["all", "marked"],
        block_message: str,
        resilience: Resilience | None,
        record: Callable[[Correction], None] | None,
    ) -> None:
        if gate is True:
            raise ConfigurationError(
                "gate=True says nothing: leave it out for the aligner's own gate, or give a number."
            )
        if not (gate is None or callable(gate) or isinstance(gate, int | float)):
            raise ConfigurationError(f"gate is {gate!r}; it takes None, False, a number or a function.")
        if inspect.iscoroutinefunction(gate):
            raise ConfigurationError(
                "gate is a coroutine function; its answer is needed at once, so give a plain function."
            )
        for name, value in (("on_error", on_error), ("on_overflow", on_overflow), ("on_reject", on_reject)):
            if value not in get_args(Policy):
                raise ConfigurationError(f"{name} is {value!r}; it takes one of {get_args(Policy)}.")
        if rounds < 1:
            raise ConfigurationError(f"rounds is {rounds}; an aligner needs at least 1.")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens is {max_new_tokens}; it must be at least 1, or None.")
        if edits not in ("all", "marked"):
            raise ConfigurationError(f"edits is {edits!r}; it takes 'all' or 'marked'.")
        self.gate = gate
        self.accept = accept
        self.repair = repair
        self.rounds = rounds
        self.max_new_tokens = max_new_tokens
        self.on_error: Policy = on_error
        self.on_overflow: Policy = on_overflow
        self.on_reject: Policy = on_reject
        self.structured = structured
        self.edits = edits
        self.block_message = block_message
        self.resilience = resilience
        self.record = record

    @property
    def _decides_late(self) -> bool:
        return self.accept is not None or self.repair is not None or self.rounds > 1 or self.edits == "marked"

    @property
    def _threshold(self) -> float | None:
        """The number the gate's score is compared with, if it is a number."""
        if self.gate is None or callable(self.gate):
            return self.backend.gate
        if self.gate is False:
            return None
        return float(self.gate)

    @property
    def _wants_score(self) -> bool:
        if self.edits == "marked":
            self._require_score("edits='marked'")
            return True
        if callable(self.gate):
            return self.backend.can_score
        if self._threshold is None:
            return False
        self._require_score("a gate by score")
        return True

    @property
    def _keep(self) -> Keep | None:
        """How the gate decides on part of a score; None if it is a function, which sees all of it, or there is no gate."""
        threshold = self._threshold
        if callable(self.gate) or threshold is None:
            return None

        def keep(score: Score, whole: bool) -> bool | None:
            # Further tokens can only raise it.
            if (score.max_gap if score.gate is None else score.gate) > threshold:
                return False
            return True if whole else None

        return keep

    def _require_score(self, what: str) -> None:
        if not self.backend.can_score:
            raise ConfigurationError(
                f"{what} needs the aligner's probabilities, which {type(self.backend).__name__} has not."
            )

    def _judge(self, jobs: list[Job], scores: list[Score | AlignerError] | list[None]) -> None:
        """Apply the gate."""
        for job, score in zip(jobs, scores, strict=True):
            if isinstance(score, AlignerError):
                if not (self.resilience and self.resilience.fallbacks and isinstance(score, OUTAGE)):
                    job.fail(score)
                    continue
                score = None  # nobody can judge it, but a fallback can still correct it
            job.score = score
            if callable(self.gate):
                try:
                    keep = bool(self.gate(job.question, job.text, score))
                except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is answered by on_error
                    job.fail(raised("gate", error))
                    continue
            elif self.gate is not False and score is not None and self._threshold is not None:
                keep = (score.max_gap if score.gate is None else score.gate) <= self._threshold
            else:
                keep = False
            if keep:
                job.stop("gate")

    def _take(self, jobs: list[Job], results: list[Completion | AlignerError]) -> None:
        """Take the completions of one round."""
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, AlignerError):
                job.fail(result)
                continue
            job.rounds += 1
            job.usage += result.usage
            job.reason = "fallback" if result.by_fallback else None
            text = result.text.strip()
            if result.finish_reason == "length":
                job.fail(
                    TruncatedCorrectionError(
                        "The correction ran into the token limit and is incomplete. Raise max_new_tokens, or set on_error."
                    )
                )
            elif not text:
                job.fail(EmptyCorrectionError("The aligner wrote nothing. Set on_error to keep or block such answers."))
            else:
                if self.edits == "marked" and job.score is not None:
                    text = keep_unmarked(job.text, text, job.score, self._edit_threshold).strip()
                if text == job.text.strip():
                    job.stop("unchanged")
                else:
                    # A later round may come back to where it all began.
                    job.text = job.answer if text == job.answer.strip() else text

    @property
    def _edit_threshold(self) -> float:
        threshold = self._threshold if self._threshold is not None else self.backend.gate
        if threshold is None:
            raise ConfigurationError(
                "edits='marked' needs a threshold: this aligner has no gate, so give gate= a number."
            )
        return threshold

    def _mend(self, job: Job) -> None:
        if self.repair is None:
            return
        try:
            text = self.repair(job.answer, job.text).strip()
        except RejectedCorrectionError as error:
            job.reason = "repair"
            job.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is answered by on_error
            job.fail(error if isinstance(error, AlignerError) else raised("repair", error))
        else:
            if not text:
                job.fail(EmptyCorrectionError("Nothing was left of the correction after repair."))
            job.text = job.answer if text == job.answer.strip() else text

    def _accepted(self, job: Job) -> bool | Exception:
        if self.accept is None:
            return True
        self._require_callable_accept()
        try:
            verdict = self.accept(job.question, job.answer, job.text)
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is answered by on_error
            return error
        if inspect.isawaitable(verdict):  # true whatever it will say, so nothing would ever be refused
            if inspect.iscoroutine(verdict):
                verdict.close()
            raise ConfigurationError("accept is a coroutine function; use acorrect, acorrect_many or astream with it.")
        return bool(verdict)

    async def _aaccepted(self, job: Job) -> bool | Exception:
        """`accept` may be slow or a coroutine function; neither blocks the event loop."""
        if self.accept is None:
            return True
        self._require_callable_accept()
        try:
            if inspect.iscoroutinefunction(self.accept):
                return bool(await self.accept(job.question, job.answer, job.text))
            verdict = await asyncio.to_thread(self.accept, job.question, job.answer, job.text)
            return bool(await verdict if inspect.isawaitable(verdict) else verdict)
        except Exception as error:  # noqa: BLE001 - as above
            return error

    def _require_callable_accept(self) -> None:
        if not callable(self.accept):
            raise ConfigurationError(
                f"accept is {type(self.accept).__name__}, which is no function. A LlamaIndex evaluator works in the "
                "classes of aligner_integrations.llama_index, which give it the sources; elsewhere give a function."
            )

    def _check(self, job: Job, accepted: bool | Exception) -> None:
        if accepted is not True:
            job.reason = None
        if isinstance(accepted, AlignerError):
            job.fail(accepted)
        elif isinstance(accepted, Exception):
            job.fail(raised("accept", accepted))
        elif not accepted:
            job.fail(RejectedCorrectionError("accept refused the correction. Set on_reject to keep or block instead."))

    def _result(self, job: Job) -> Correction:
        """Turn a finished job into its `Correction`, or raise, as the policies say."""
        text, reason, raises = job.text, job.reason, False
        if job.error is None:
            outcome: Outcome = "skipped" if job.skipped else "corrected" if job.text != job.answer else "kept"
            if outcome == "kept":
                reason = reason or "unchanged"
        else:
            rejected = isinstance(job.error, RejectedCorrectionError)
            outcome = "rejected" if rejected else "failed"
            policy = self.on_overflow if isinstance(job.error, AnswerTooLongError) else self.on_error
            policy = self.on_reject if rejected else policy
            # What is not text can be neither kept nor blocked: the caller passed the wrong thing.
            raises = policy == "raise" or not (isinstance(job.question, str) and isinstance(job.answer, str))
            text = job.answer if policy == "keep" else self.block_message
            reason = (reason or "accept") if rejected else f"{type(job.error).__name__}: {job.error}"
        correction = Correction(
            job.question, job.answer, text, outcome, reason, job.rounds, job.usage, time.monotonic() - job.started
        )
        telemetry.corrected(correction, job.error if outcome == "failed" else None)
        if raises and job.error is not None:
            raise job.error
        if self.record is not None:
            self.record(correction)
        return correction

    def _results(self, jobs: list[Job], return_exceptions: bool) -> list[Correction]:
        # With return_exceptions the list holds errors, too, as that of asyncio.gather does.
        results: list[Any] = []
        first: AlignerError | None = None
        for job in jobs:
            try:
                results.append(self._result(job))
            except AlignerError as error:
                first = first or error
                results.append(error)
        if first is not None and not return_exceptions:
            raise first
        return results


# What may go wrong with one correction, and `on_error` answers. A model that cannot be had at all is raised.
ONE_CORRECTION = (CorrectionError, InputError)


def raised(what: str, error: Exception) -> BackendError:
    """Return the error that stands for what a caller's function raised."""
    failure = BackendError(f"{what} raised {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def open_jobs(jobs: list[Job]) -> list[Job]:
    """Return those that go on."""
    return [job for job in jobs if not job.done]


def changed_jobs(jobs: list[Job]) -> list[Job]:
    """Return those with a correction to show."""
    return [job for job in jobs if job.error is None and job.text != job.answer]
