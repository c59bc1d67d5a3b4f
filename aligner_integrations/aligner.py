"""`Aligner`: the one path every integration takes, from question and answer to `Correction`. The policy lives here.

    skip what must not be aligned -> gate: leave it alone? -> render, complete -> accept? -> Correction

What lives elsewhere: how text is generated (`backends/`), prompts (`templates.py`), which weights a name means
(`models.py`), and finding the answer and question in a framework's values (`langchain/`, `llama_index/`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from aligner_integrations import telemetry
from aligner_integrations.ahead import Ahead
from aligner_integrations.backends.base import (
    Backend,
    Completion,
    JudgesStreams,
    Keep,
    Reader,
    ReadsAhead,
    Request,
    Score,
    Timeouts,
)
from aligner_integrations.correction import Correction, Outcome, Usage
from aligner_integrations.edits import keep_unmarked
from aligner_integrations.errors import (
    AlignerError,
    AnswerTooLongError,
    BackendError,
    ConfigurationError,
    CorrectionError,
    EmptyCorrectionError,
    InputError,
    InvalidTextError,
    RejectedCorrectionError,
    TruncatedCorrectionError,
    UnknownTemplateError,
)
from aligner_integrations.streaming import AsyncCorrectionStream, CorrectionStream, LiveText
from aligner_integrations.structured import is_structured
from aligner_integrations.templates import TEMPLATES, Template, get_template

if TYPE_CHECKING:
    from aligner_integrations.cache import Cache
    from aligner_integrations.resilience import Resilience

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
class _Job:
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


class Aligner:
    """Corrects answers: reads a question and an upstream's answer, and writes a better answer.

    Safe to share between threads and tasks: nothing of a call is kept on the object.

    Args:
        model: Hub id, folder, or `"embedded"`. Default: the environment variable `ALIGNER_MODEL`, else `"embedded"`,
            a small aligner shipped with this package for trying out, tests and detoxification on a CPU.
        backend: How the aligner runs, instead of `model`.
        template: A registered name, a string with `{question}` and `{answer}`, or a `Template`. Default: the
            template of the checkpoint.
        gate: When to keep an answer without a correction. None: the aligner's own gate, if it has one. False: never.
            A number: when the gate's score is at most that. A callable: `(question, answer, score) -> bool`.
        accept: `(question, answer, correction) -> bool`; a correction it refuses goes to `on_reject`.
        repair: `(answer, correction) -> correction`: puts right what a correction must not touch, such as citations,
            after the last round and before `accept`. A `RejectedCorrectionError` it raises goes to `on_reject`.
        rounds: How often a correction is corrected again; stops early when the aligner changes nothing.
        max_new_tokens: Longest correction in tokens. None: max(320, twice the answer's tokens + 64).
        on_error: What to show when the aligner fails: `"raise"`, `"keep"` the answer, or `"block"`.
        on_overflow: The same when question and answer do not fit the aligner's window.
        on_reject: The same when `accept` refuses.
        structured: Also align answers that parse as JSON or XML; they are skipped otherwise.
        edits: `"all"`, or `"marked"`: changes at words that the gate's probe does not object to are taken back.
        block_message: What `"block"` shows.
        resilience: Time limits, retries, a circuit breaker and fallbacks for the backend; None: it is called as it is.
        cache: Where finished corrections are looked up; None: each is made anew.
        record: Called with each `Correction`, for example to collect preference data.

    Raises:
        ConfigurationError: Options that do not fit together.
        UnknownTemplateError: At the first use, if no template is known for the checkpoint.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        backend: Backend | None = None,
        template: str | Template | None = None,
        gate: float | Literal[False] | Gate | None = None,
        accept: Accept | None = None,
        repair: Repair | None = None,
        rounds: int = 1,
        max_new_tokens: int | None = None,
        on_error: Policy = "raise",
        on_overflow: Policy = "raise",
        on_reject: Policy = "keep",
        structured: bool = False,
        edits: Literal["all", "marked"] = "all",
        block_message: str = BLOCK_MESSAGE,
        resilience: Resilience | None = None,
        cache: Cache | None = None,
        record: Callable[[Correction], None] | None = None,
    ) -> None:
        if model is not None and backend is not None:
            raise ConfigurationError("Give either model or backend, not both: a backend brings its own model.")
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
        if backend is None:
            from aligner_integrations.backends.local import LocalBackend

            backend = LocalBackend(model or os.environ.get("ALIGNER_MODEL") or "embedded")
        self.backend = backend
        self._template = None if template is None else get_template(template)
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
        self.cache = cache
        self.record = record

    @classmethod
    def from_endpoint(
        cls,
        url: str,
        model: str | None = None,
        api_key: str | Callable[[], str] | None = None,
        template: str | Template | None = None,
        **options: Any,
    ) -> Aligner:
        """An aligner on a server that speaks OpenAI's completions: vLLM, SGLang, llama.cpp, TGI, `transformers serve`.

        Args:
            url: The server's API, as OpenAI clients take it: it ends in `/v1`.
            model: Its name there. None asks the server, which must have exactly one.
            api_key: The key, or a function that returns it.
            template: As for `Aligner`. Default: the template of the model, if its name is a known one.
            **options: Further arguments of `CompletionsBackend` and of `Aligner`. `resilience` is `Resilience()` unless
                you give another, or None.
        """
        from aligner_integrations.backends.completions import CompletionsBackend
        from aligner_integrations.resilience import Resilience

        own = _taken(CompletionsBackend, options)
        options.setdefault("resilience", Resilience())
        return cls(backend=CompletionsBackend(url, model, api_key=api_key, **own), template=template, **options)

    @classmethod
    def from_chat_model(cls, llm: Any, **options: Any) -> Aligner:
        """A chat model that is told to correct: no aligner's weights are needed.

        Args:
            llm: A chat model of LangChain, an LLM of LlamaIndex, or the URL of an OpenAI-compatible API.
            **options: Further arguments of `ChatModelBackend`, such as `principles`, and of `Aligner`.
        """
        from aligner_integrations.backends.chat_model import ChatModelBackend

        own = _taken(ChatModelBackend, options)
        return cls(backend=ChatModelBackend(llm, **own), **options)

    @property
    def template(self) -> Template:
        """The prompt template in use; for an unknown checkpoint this may look at its `aligner_config.json`.

        Raises:
            UnknownTemplateError: None was given and the backend does not know one.
        """
        template = self._template or self.backend.template
        if template is None:
            raise UnknownTemplateError(
                f"{type(self.backend).__name__} does not know which template its aligner was trained with. "
                f"Pass template= with one of {', '.join(sorted(TEMPLATES))}, or a string with {{question}} and {{answer}}."
            )
        return template

    @property
    def wrapped_backend(self) -> Backend:
        """The backend as corrections use it: spans around it, then `resilience`, and `cache` outside."""
        backend = telemetry.traced(self.backend)
        if self.resilience is not None:
            backend = self.resilience.wrap(backend)
        if self.cache is not None:
            backend = self.cache.wrap(backend)
        return backend

    def load(self) -> None:
        """Load the weights now instead of at the first correction."""
        self.backend.load()

    # One correction -------------------------------------------------------------------------------------------------

    def correct(self, question: str, answer: str, **fields: str) -> Correction:
        """Correct one answer.

        Args:
            question: What the upstream was asked.
            answer: What it said.
            **fields: The template's extra fields, such as `aspects`.

        Raises:
            AlignerError: As `on_error`, `on_overflow` and `on_reject` say.
        """
        return self.correct_many([(question, answer)], return_exceptions=False, **fields)[0]

    async def acorrect(self, question: str, answer: str, **fields: str) -> Correction:
        """`correct` without blocking the event loop; cancelling it stops the aligner."""
        return (await self.acorrect_many([(question, answer)], return_exceptions=False, **fields))[0]

    def failed(self, question: str, answer: str, error: AlignerError) -> Correction:
        """Return what stands for a correction that an integration could not even ask for.

        Args:
            question: What the upstream was asked.
            answer: What it said.
            error: Why.

        Raises:
            AlignerError: This one, as `on_error`, `on_overflow` and `on_reject` say.
        """
        job = self._start(question, answer, {})
        job.fail(error)
        return self._result(job)

    # Many, as one batch ---------------------------------------------------------------------------------------------

    @telemetry.correcting
    def correct_many(
        self, pairs: Iterable[tuple[str, str]], *, return_exceptions: bool = False, **fields: str
    ) -> list[Correction]:
        """Correct a batch of (question, answer); results in order, and one failure never stops the others.

        Args:
            pairs: Questions and answers.
            return_exceptions: Put an error that would be raised into its place in the list (as asyncio.gather does)
                instead of raising the first one after all others are done.
            **fields: The template's extra fields, the same for all.
        """
        jobs = [self._start(question, answer, fields) for question, answer in pairs]
        for _ in range(self.rounds):
            if (waiting := _open(jobs)) and self._wants_score:
                self._judge(waiting, self.wrapped_backend.score([self._request(job) for job in waiting]))
            elif waiting:
                self._judge(waiting, [None] * len(waiting))
            if waiting := _open(jobs):
                self._take(waiting, self.wrapped_backend.complete([self._request(job) for job in waiting]))
        for job in _changed(jobs):
            self._mend(job)
        for job in _changed(jobs):
            self._check(job, self._accepted(job))
        return self._results(jobs, return_exceptions)

    @telemetry.acorrecting
    async def acorrect_many(
        self, pairs: Iterable[tuple[str, str]], *, return_exceptions: bool = False, **fields: str
    ) -> list[Correction]:
        """`correct_many` without blocking the event loop; cancelling it stops the aligner."""
        await asyncio.to_thread(self._look_up)
        jobs = [self._start(question, answer, fields) for question, answer in pairs]
        for _ in range(self.rounds):
            if (waiting := _open(jobs)) and self._wants_score:
                self._judge(waiting, await self.wrapped_backend.ascore([self._request(job) for job in waiting]))
            elif waiting:
                self._judge(waiting, [None] * len(waiting))
            if waiting := _open(jobs):
                self._take(waiting, await self.wrapped_backend.acomplete([self._request(job) for job in waiting]))
        if self.repair is not None:
            for job in _changed(jobs):
                await asyncio.to_thread(self._mend, job)
        for job in _changed(jobs):
            self._check(job, await self._aaccepted(job))
        return self._results(jobs, return_exceptions)

    # As it is written -----------------------------------------------------------------------------------------------

    def stream(self, question: str, answer: str, **fields: str) -> CorrectionStream:
        """Yield the corrected text as the aligner writes it; the `Correction` is on the stream at its end.

        With `accept`, `repair`, `rounds` above 1 or `edits="marked"` the text comes after the last decision. An error after the
        first piece is raised whatever `on_error` says, because that piece is out.
        """
        return CorrectionStream(self._pieces(question, answer, fields))

    def astream(self, question: str, answer: str, **fields: str) -> AsyncCorrectionStream:
        """`stream` without blocking the event loop; closing it stops the aligner."""
        return AsyncCorrectionStream(self._apieces(question, answer, fields))

    def _pieces(self, question: str, answer: str, fields: dict[str, str]) -> Generator[str, None, Correction]:
        if self._decides_late:
            correction = self.correct(question, answer, **fields)
            yield correction.text
            return correction
        job = self._start(question, answer, fields)
        backend, keep = self.wrapped_backend, self._keep
        early = backend if keep and isinstance(backend, JudgesStreams) else None
        if not job.done and not early:
            self._judge([job], backend.score([self._request(job)]) if self._wants_score else [None])
        live = LiveText(job.answer)
        if not job.done:
            request = self._request(job)
            try:
                for piece in early.stream_unless(request, keep) if early and keep else backend.stream(request):
                    if isinstance(piece, Score):  # `keep` said so
                        job.score = piece
                        job.stop("gate")
                    elif shown := live.feed(piece):
                        yield shown
                if not job.done:
                    self._take([job], [Completion(live.text, "stop")])
            except _ONE_CORRECTION as error:
                if live.started:
                    raise
                job.fail(error)
            if not job.error and (rest := live.end()):
                yield rest
        correction = self._result(job)
        if not live.started:
            yield correction.text
        return correction

    async def _apieces(
        self, question: str, answer: str, fields: dict[str, str]
    ) -> AsyncGenerator[str | Correction, None]:
        if self._decides_late:
            correction = await self.acorrect(question, answer, **fields)
            yield correction.text
            yield correction
            return
        await asyncio.to_thread(self._look_up)
        job = self._start(question, answer, fields)
        backend, keep = self.wrapped_backend, self._keep
        early = backend if keep and isinstance(backend, JudgesStreams) else None
        if not job.done and not early:
            self._judge([job], await backend.ascore([self._request(job)]) if self._wants_score else [None])
        live = LiveText(job.answer)
        if not job.done:
            request = self._request(job)
            pieces = early.astream_unless(request, keep) if early and keep else backend.astream(request)
            try:
                async for piece in pieces:
                    if isinstance(piece, Score):  # `keep` said so
                        job.score = piece
                        job.stop("gate")
                    elif shown := live.feed(piece):
                        yield shown
                if not job.done:
                    self._take([job], [Completion(live.text, "stop")])
            except _ONE_CORRECTION as error:
                if live.started:
                    raise
                job.fail(error)
            finally:
                if isinstance(pieces, AsyncGenerator):
                    await pieces.aclose()
            if not job.error and (rest := live.end()):
                yield rest
        correction = self._result(job)
        if not live.started:
            yield correction.text
        yield correction

    def ahead(self, question: str | Callable[[], str | None], **fields: str) -> Ahead:
        """Read a question, and an answer that the upstream still writes, so that its correction starts sooner.

        The correction itself is made as it is without, once the answer is complete; see `Ahead`.

        Args:
            question: What the upstream was asked, or a function that finds it out at the answer's second piece. If it
                returns None, nothing is read; if it is wrong, what was read is of no use.
            **fields: The template's extra fields.
        """

        def open_reader(beginning: str) -> Reader | None:
            data = not self.structured and beginning.lstrip().startswith(("{", "[", "<"))
            if data or not isinstance(self.backend, ReadsAhead):
                return None
            asked = question() if callable(question) else question
            if asked is None:
                return None
            return self.backend.ahead(lambda answer: self.template.opening(asked, answer, **fields))

        return Ahead(open_reader)

    # The aligner's judgement ----------------------------------------------------------------------------------------

    def score(self, question: str, answer: str, **fields: str) -> Score:
        """Judge an answer in one forward pass: how likely the aligner is to repeat it, and where it objects.

        Raises:
            ConfigurationError: This backend has no scores.
            AlignerError: The answer cannot be used, or the backend failed.
        """
        self._require_score("score()")
        return _unwrap(self.wrapped_backend.score([self._scorable(question, answer, fields)])[0])

    async def ascore(self, question: str, answer: str, **fields: str) -> Score:
        """`score` without blocking the event loop."""
        self._require_score("ascore()")
        await asyncio.to_thread(self._look_up)
        return _unwrap((await self.wrapped_backend.ascore([self._scorable(question, answer, fields)]))[0])

    def _scorable(self, question: str, answer: str, fields: dict[str, str]) -> Request:
        job = self._start(question, answer, fields)
        if job.error:
            raise job.error
        return self._request(job)

    # Steps shared by the synchronous and asynchronous paths -----------------------------------------------------------

    def _start(self, question: Any, answer: Any, fields: dict[str, str]) -> _Job:
        job = _Job(question, answer, fields, answer, time.monotonic())
        if not isinstance(question, str) or not isinstance(answer, str):
            kinds = f"{type(question).__name__} and {type(answer).__name__}"
            job.fail(InvalidTextError(f"A question and an answer must be strings, got {kinds}."))
            return job
        try:
            self.template.render("", "", **fields)  # a missing field is the caller's mistake, not this answer's
        except BackendError as error:  # a server that cannot say which model it has
            job.fail(error)
            return job
        if not answer.strip():
            job.skipped = True
            job.stop("empty")
        elif not self.structured and is_structured(answer):
            job.skipped = True
            job.stop("structured")
        else:
            try:
                "".join([question, answer, *fields.values()]).encode()
            except UnicodeEncodeError as error:
                job.fail(InvalidTextError(f"The question or the answer cannot be encoded as UTF-8: {error.reason}."))
        return job

    def _request(self, job: _Job) -> Request:
        template = self.template
        prompt = template.render(job.question, job.text, **job.fields)
        # One deadline for everything that is done for a correction.
        timeouts = Timeouts() if self.resilience is None else self.resilience.timeouts(job.started)
        return Request(job.question, job.text, prompt, template.completion_prefix, self.max_new_tokens, timeouts)

    def _look_up(self) -> None:
        """Learn template and gate, which may mean to read a file, or to ask the Hub or a server: off the event loop."""
        # A server that is down: `_start` meets it again, and `on_error` answers.
        with contextlib.suppress(BackendError):
            _ = self.template, self._wants_score

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

    def _judge(self, jobs: list[_Job], scores: list[Score | AlignerError] | list[None]) -> None:
        """Apply the gate."""
        for job, score in zip(jobs, scores, strict=True):
            if isinstance(score, AlignerError):
                if self.resilience is None or not self.resilience.may_help(score):
                    job.fail(score)
                    continue
                score = None  # nobody can judge it, but a fallback can still correct it
            job.score = score
            if callable(self.gate):
                try:
                    keep = bool(self.gate(job.question, job.text, score))
                except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is answered by on_error
                    job.fail(_raised("gate", error))
                    continue
            elif self.gate is not False and score is not None and self._threshold is not None:
                keep = (score.max_gap if score.gate is None else score.gate) <= self._threshold
            else:
                keep = False
            if keep:
                job.stop("gate")

    def _take(self, jobs: list[_Job], results: list[Completion | AlignerError]) -> None:
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

    def _mend(self, job: _Job) -> None:
        if self.repair is None:
            return
        try:
            text = self.repair(job.answer, job.text).strip()
        except RejectedCorrectionError as error:
            job.reason = "repair"
            job.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is answered by on_error
            job.fail(error if isinstance(error, AlignerError) else _raised("repair", error))
        else:
            if not text:
                job.fail(EmptyCorrectionError("Nothing was left of the correction after repair."))
            job.text = job.answer if text == job.answer.strip() else text

    def _accepted(self, job: _Job) -> bool | Exception:
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

    async def _aaccepted(self, job: _Job) -> bool | Exception:
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

    def _check(self, job: _Job, accepted: bool | Exception) -> None:
        if accepted is not True:
            job.reason = None
        if isinstance(accepted, AlignerError):
            job.fail(accepted)
        elif isinstance(accepted, Exception):
            job.fail(_raised("accept", accepted))
        elif not accepted:
            job.fail(RejectedCorrectionError("accept refused the correction. Set on_reject to keep or block instead."))

    def _result(self, job: _Job) -> Correction:
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

    def _results(self, jobs: list[_Job], return_exceptions: bool) -> list[Correction]:
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
_ONE_CORRECTION = (CorrectionError, InputError)


def _taken(backend: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Take a backend's own arguments out of the options; the rest is for `Aligner`."""
    return {name: options.pop(name) for name in inspect.signature(backend).parameters if name in options}


def _raised(what: str, error: Exception) -> BackendError:
    failure = BackendError(f"{what} raised {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _open(jobs: list[_Job]) -> list[_Job]:
    return [job for job in jobs if not job.done]


def _changed(jobs: list[_Job]) -> list[_Job]:
    return [job for job in jobs if job.error is None and job.text != job.answer]


def _unwrap(result: Score | AlignerError) -> Score:
    if isinstance(result, AlignerError):
        raise result
    return result
