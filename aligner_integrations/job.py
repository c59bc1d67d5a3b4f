"""One correction on its way: its state, and the steps it goes through, in their order.

    begin: skip what must not be aligned -> judge: leave it alone? -> take: what the aligner wrote -> mend, check -> settled

Nothing else decides. What lives elsewhere: the options that are asked here (`policy.py`), who goes through the steps (`aligner.py`),
how a backend (`asking.py`) and a caller's functions (`user_functions.py`) are called, and what of a correction is taken over
(`circles.py`, `guard.py`, `edits.py`).
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aligner_integrations import telemetry, threads, user_functions
from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.request import Completion, Request, Timeouts
from aligner_integrations.backends.score import Keep, Score
from aligner_integrations.circles import Circles
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
    InvalidTextError,
    RejectedCorrectionError,
    TruncatedCorrectionError,
)
from aligner_integrations.guard import Guard, is_guarded
from aligner_integrations.policy import Accept, Plan, Policy
from aligner_integrations.recording.recorder import Recording
from aligner_integrations.refusals import declines
from aligner_integrations.structured import is_structured

logger = logging.getLogger(__name__)

Record = Callable[[Correction], None]
"""Called with each correction."""


@dataclass(slots=True)
class Job:
    """One correction while it runs: its state, and the steps it goes through. Lives for one call only.

    Attributes:
        policy: What decides.
        backend: What is asked.
        timeouts: How long all of it may take together.
        plan: What is known of the backend, from `begin` on.
        text: The text as far as the correction has come; at first the answer.
        score: How the aligner judges `text`.
        reason: Why it is as it is; see `Correction`.
        done: Whether there is no further round.
        objections: What the gate objects to in the answer; see `Correction`.
    """

    policy: Policy
    backend: Backend
    question: Any
    answer: Any
    fields: dict[str, str] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    plan: Plan = field(init=False)
    text: Any = field(init=False)
    started: float = field(default_factory=time.monotonic)
    rounds: int = 0
    usage: Usage = Usage()
    score: Score | None = None
    reason: str | None = None
    error: AlignerError | None = None
    skipped: bool = False
    done: bool = False
    objections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """What is there at first is the answer."""
        self.text = self.answer

    def begin(self, plan: Plan | BackendError) -> Job:
        """Look whether there is anything to correct; an error in place of the plan: it could not be looked up."""
        if not isinstance(self.question, str) or not isinstance(self.answer, str):
            kinds = f"{type(self.question).__name__} and {type(self.answer).__name__}"
            self.fail(InvalidTextError(f"A question and an answer must be strings, got {kinds}."))
            return self
        if isinstance(plan, BackendError):
            self.fail(plan)
            return self
        self.plan = plan
        plan.template.check(self.fields)  # a missing field is the caller's mistake, not this answer's
        if not self.answer.strip():
            self.skip("empty")
        elif not self.policy.structured and is_structured(self.answer):
            self.skip("structured")
        else:
            try:
                "".join([self.question, self.answer, *self.fields.values()]).encode()
            except UnicodeEncodeError as error:
                self.fail(InvalidTextError(f"The question or the answer cannot be encoded as UTF-8: {error.reason}."))
        return self

    # How it ends ----------------------------------------------------------------------------------------------------

    def stop(self, reason: str | None = None) -> None:
        """No further round; the reason counts only if nothing was corrected before."""
        self.done = True
        if not self.rounds or self.text == self.answer:
            self.reason = reason

    def skip(self, reason: str) -> None:
        """This must not be aligned."""
        self.skipped = True
        self.stop(reason)

    def fail(self, error: AlignerError) -> None:
        """No further round; the policy decides what is shown."""
        self.done = True
        self.error = error

    # The steps, in their order ------------------------------------------------------------------------------------------

    def request(self) -> Request:
        """Return what the backend is asked for in the next round."""
        template, limit = self.plan.template, self.policy.max_new_tokens
        prompt = template.render(self.question, self.text, **self.fields)
        return Request(self.question, self.text, prompt, template.completion_prefix, limit, self.timeouts)

    def judge(self, score: Score | AlignerError | None) -> None:
        """Apply the gate; None: there is no score."""
        if self._scored(score):
            gate = self.policy.gate
            self._gated(
                user_functions.run("gate", self.deadline, gate, self.question, self.text, self.score)
                if callable(gate)
                else self._by_number()
            )

    async def ajudge(self, score: Score | AlignerError | None) -> None:
        """`judge` without blocking the event loop."""
        if self._scored(score):
            gate = self.policy.gate
            self._gated(
                await user_functions.arun("gate", self.deadline, gate, self.question, self.text, self.score)
                if callable(gate)
                else self._by_number()
            )

    def _scored(self, score: Score | AlignerError | None) -> bool:
        """Take a score; False if there is nothing to judge by."""
        if isinstance(score, AlignerError):
            if not (self.backend.may_fall_back and isinstance(score, OUTAGE)):
                self.fail(score)
                return False
            score = None  # nobody can judge it, but a fallback can still correct it
        self.score = score
        self._objects(score)
        return True

    def _objects(self, score: Score | None) -> None:
        if not self.rounds and score is not None:
            self.objections = self.plan.objections(score)

    def _by_number(self) -> bool:
        return self.score is not None and self.keep is not None and bool(self.keep(self.score, True))

    def _gated(self, verdict: Any) -> None:
        if isinstance(verdict, AlignerError):
            self.fail(verdict)
        elif verdict:
            self.stop("gate")

    @property
    def keep(self) -> Keep | None:
        """How the gate decides on part of a score; None if it is a function, which sees all of it, or no score is wanted."""
        plan = self.plan
        if callable(self.policy.gate) or not plan.wants_score:
            return None

        def keep(score: Score, whole: bool) -> bool | None:
            if whole:
                self.score = score
            elif plan.edits == "guarded":
                return None  # the correction is guarded by the marks of all tokens
            self._objects(score)
            # Further tokens can only raise what words are objected to by; objections to the whole come with the last one.
            if plan.objections(score) or (plan.threshold is None and not plan.whole):
                return False
            return True if whole else None

        return keep

    @property
    def guard(self) -> Guard | None:
        """What takes the edits back that nobody asked for, in the next text; None: all of them stay."""
        if self.plan.edits != "guarded" or not is_guarded(self.text):
            return None
        whole = self.plan.whole
        return Guard(self.text, self.plan.marks, lambda: self.score, lambda score: bool(score.objects(whole)))

    def take(self, result: Completion | AlignerError) -> None:
        """Take the completion of one round."""
        if isinstance(result, AlignerError):
            self.fail(result)
            return
        self.usage += result.usage
        self.reason = "fallback" if result.by_fallback else None
        try:
            text = self._minded(result)
        except CorrectionError as error:
            self.rounds += 1
            self.fail(error)
        else:
            self.write(text)

    def _minded(self, result: Completion) -> str:
        """The text of a completion without the edits that are taken back."""
        marks, score, guard, circles = self.plan.marks, self.score, self.guard, Circles(self.text)
        text = circles.feed(result.text.strip()) + circles.end()
        if guard is not None:
            text = guard.feed(text)
        # Cut where nothing that it may still say would be shown, it is complete.
        if result.finish_reason == "length" and not (circles.closed or (guard is not None and guard.complete)):
            raise TruncatedCorrectionError(
                "The correction ran into the token limit and is incomplete. Raise max_new_tokens, or set on_error."
            )
        if guard is not None:
            return text + guard.end()
        if self.plan.edits == "marked" and text and marks is not None and score is not None:
            return text if score.objects(self.plan.whole) else keep_unmarked(self.text, text, score, marks)
        return text

    def write(self, text: str) -> None:
        """Take the text that a round ends with."""
        self.rounds += 1
        text = text.strip()
        if not text:
            self.fail(EmptyCorrectionError("The aligner wrote nothing. Set on_error to keep or block such answers."))
        elif text == self.text.strip():
            self.stop("unchanged")
        else:
            self._set(text)

    def mend(self) -> None:
        """Put right what a correction must not touch."""
        if self.policy.repair is not None:
            self._mended(user_functions.run("repair", self.deadline, self.policy.repair, self.answer, self.text))

    async def amend(self) -> None:
        """`mend` without blocking the event loop."""
        if self.policy.repair is not None:
            self._mended(await user_functions.arun("repair", self.deadline, self.policy.repair, self.answer, self.text))

    def _mended(self, text: Any) -> None:
        if isinstance(text, AlignerError):
            self.reason = "repair" if isinstance(text, RejectedCorrectionError) else self.reason
            self.fail(text)
        elif not text.strip():
            self.fail(EmptyCorrectionError("Nothing was left of the correction after repair."))
        else:
            self._set(text.strip())

    def _set(self, text: str) -> None:
        # It may come back to where it all began, and outer white space is no part of a correction.
        self.text = self.answer if text == self.answer.strip() else text

    def check(self) -> None:
        """Ask whether the correction may be shown.

        Raises:
            ConfigurationError: `accept` is no plain function.
        """
        if (accept := self._accept()) is None:
            return
        verdict = user_functions.run("accept", self.deadline, accept, self.question, self.answer, self.text)
        if inspect.isawaitable(verdict):  # true whatever it will say, so nothing would ever be refused
            if inspect.iscoroutine(verdict):
                verdict.close()
            raise ConfigurationError("accept is a coroutine function; use acorrect, acorrect_many or astream with it.")
        self._accepted(verdict)

    async def acheck(self) -> None:
        """`check` for an `accept` that may be slow or a coroutine function; neither blocks the event loop."""
        if (accept := self._accept()) is not None:
            self._accepted(
                await user_functions.arun("accept", self.deadline, accept, self.question, self.answer, self.text)
            )

    def _accept(self) -> Accept | None:
        accept = self.policy.accept
        if accept is None or callable(accept):
            return accept
        raise ConfigurationError(
            f"accept is {type(accept).__name__}, which is no function. A LlamaIndex evaluator works in the "
            "classes of aligner_integrations.llama_index, which give it the sources; elsewhere give a function."
        )

    def _accepted(self, verdict: Any) -> None:
        if isinstance(verdict, AlignerError):
            self.reason = None
            self.fail(verdict)
        elif not verdict:
            self.reason = None
            self.fail(RejectedCorrectionError("accept refused the correction. Set on_reject to keep or block instead."))

    @property
    def deadline(self) -> Deadline:
        """When the correction is given up."""
        return Deadline(self.timeouts.deadline)

    def settled(self, record: Record | Recording | None, number: int = 0) -> Correction | AlignerError:
        """Return the correction, once it is recorded, or the error that is raised in its place.

        Args:
            record: What is told of it.
            number: Its place in a batch.
        """
        try:
            correction = self.result()
        except AlignerError as error:
            return error
        if isinstance(record, Recording):  # which never waits
            record.take(correction, number)
        elif record is not None:
            try:
                threads.run(partial(record, correction), self.deadline.left)
            except Exception as error:  # noqa: BLE001 - the correction is made, whatever a recorder comes to
                _not_recorded(error)
        return correction

    async def asettled(self, record: Record | Recording | None, number: int = 0) -> Correction | AlignerError:
        """`settled` without blocking the event loop."""
        try:
            correction = self.result()
        except AlignerError as error:
            return error
        if isinstance(record, Recording):
            record.take(correction, number)
        elif record is not None:
            try:
                await threads.arun(partial(record, correction), self.deadline.left)
            except Exception as error:  # noqa: BLE001 - as above
                _not_recorded(error)
        return correction

    def result(self) -> Correction:
        """Turn the finished job into its `Correction`, or raise, as the policy says."""
        text, reason, raises = self.text, self.reason, False
        if self.error is None:
            outcome: Outcome = "skipped" if self.skipped else "corrected" if self.text != self.answer else "kept"
            if outcome == "kept":
                reason = reason or "unchanged"
            elif outcome == "corrected" and declines(self.answer, self.text):
                reason = reason or "declined"
        else:
            policy = self.policy
            rejected = isinstance(self.error, RejectedCorrectionError)
            outcome = "rejected" if rejected else "failed"
            instead = policy.on_overflow if isinstance(self.error, AnswerTooLongError) else policy.on_error
            instead = policy.on_reject if rejected else instead
            # What is not text can be neither kept nor blocked: the caller passed the wrong thing.
            raises = instead == "raise" or not (isinstance(self.question, str) and isinstance(self.answer, str))
            text = self.answer if instead == "keep" else policy.block_message
            reason = (reason or "accept") if rejected else f"{type(self.error).__name__}: {self.error}"
        seconds = time.monotonic() - self.started
        score = None if self.score is None or math.isinf(self.score.judgement) else self.score.judgement
        correction = Correction(
            self.question, self.answer, text, outcome, reason, self.rounds, self.usage, seconds, score, self.objections
        )
        telemetry.corrected(correction, self.error if outcome == "failed" else None)
        if raises and self.error is not None:
            raise self.error
        return correction


def open_jobs(jobs: list[Job]) -> list[Job]:
    """Return those that go on."""
    return [job for job in jobs if not job.done]


def changed_jobs(jobs: list[Job]) -> list[Job]:
    """Return those with a correction to show."""
    return [job for job in jobs if job.error is None and job.text != job.answer]


def _not_recorded(error: Exception) -> None:
    # Its type alone, or what the system says of a file: other messages may quote the text.
    what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    logger.error("record failed for one correction, which is shown all the same: %s", what)
