"""`Aligner`: the one path every integration takes, from question and answer to `Correction`.

    skip what must not be aligned -> gate: leave it alone? -> render, complete -> accept? -> Correction

What lives elsewhere: what an aligner is made of, and the ways to make one (`configured.py`), the policy (`policy.py`), how text is
generated (`backends/`), prompts (`templates.py`), which weights a name means (`models.py`), and finding the answer and question in a
framework's values (`langchain/`, `llama_index/`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from typing import Any, cast

from aligner_integrations import telemetry, threads, turnstile
from aligner_integrations.asking import ONE_CORRECTION, acompletions, ascores, completions, scores
from aligner_integrations.backends.base import Backend, Reader, closing_at_end
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.prefill import Prefill
from aligner_integrations.backends.request import Request, Timeouts
from aligner_integrations.backends.score import Score
from aligner_integrations.configured import Configured
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, BackendError, ConfigurationError
from aligner_integrations.job import Job, changed_jobs, open_jobs
from aligner_integrations.pairs import Pair, pairs_of
from aligner_integrations.policy import Plan
from aligner_integrations.streaming import AsyncCorrectionStream, CorrectionStream, LiveText


class Aligner(Configured):
    """Corrects answers: reads a question and an upstream's answer, and writes a better answer.

    Safe to share between threads and tasks: nothing of a call is kept on the object.

    Args:
        model: Hub id, folder, or `"embedded"`. Default: the environment variable `ALIGNER_MODEL`, else `"embedded"`,
            a small aligner shipped with this package for trying out, tests and detoxification on a CPU.
        backend: How the aligner runs, instead of `model`.
        template: A registered name, a string with `{question}` and `{answer}`, or a `Template`. Default: the
            template of the checkpoint.
        gate: When to keep an answer without a correction. None: the aligner's own gate, if it has one. False: never.
            A number: when the gate's score of rude words is at most that. A callable: `(question, answer, score) -> bool`.
            A mapping: for each kind of objection, `"rude"`, `"hateful"` (insults, threats, hate), `"harmful"` (help with
            harm), a number, or False for none of that kind; what it does not name stays as the aligner's own gate has it.
        accept: `(question, answer, correction) -> bool`; a correction it refuses goes to `on_reject`.
        repair: `(answer, correction) -> correction`: puts right what a correction must not touch, such as citations,
            after the last round and before `accept`. A `RejectedCorrectionError` it raises goes to `on_reject`.
        rounds: How often a correction is corrected again; stops early when the aligner changes nothing.
        max_new_tokens: Longest correction in tokens. None: max(320, twice the answer's tokens + 64).
        on_error: What to show when the aligner fails: `"raise"`, `"keep"` the answer, or `"block"`.
        on_overflow: The same when question and answer do not fit the aligner's window.
        on_reject: The same when `accept` refuses.
        structured: Also align answers that parse as JSON or XML; they are skipped otherwise.
        edits: Which edits of the aligner are taken over. None: as the aligner's configuration says it corrects: minimal
            edits are guarded, an aligner that rewrites or does not say has `"all"`. `"all"`: the aligner's own text.
            `"guarded"`: in an answer of more than one sentence, only the sentences that the gate objects to may change, and
            code, addresses, numbers and markup stay; without scores, any sentence may, but no dozen words go at once. See
            `guard.py`. `"marked"`: an edit is taken back unless it touches a word that the gate objects to.
        block_message: What `"block"` shows.
        resilience: Time limits, retries, a circuit breaker and fallbacks for the backend; None: it is called as it is.
        cache: Where finished corrections are looked up: a `Cache`, or the path of its file; None: each is made anew.
        record: Where each `Correction` is kept, for example to make preference data: a file (`corrections.jsonl`), a folder, an
            SQLite database (`.db`), or a `Recorder` of one with options; its texts are then on the disk, readable by the owner
            only. Or any function that takes corrections.

    Raises:
        ConfigurationError: Options that are not known, of the wrong kind, or do not fit together.
        UnknownTemplateError: At the first use, if no template is known for the checkpoint.
    """

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
        job = Job(self.policy, self.backend, question, answer, timeouts=self._timeouts())
        job.fail(error)
        return _results([job.settled(self.listener)])[0]

    # Many, as one batch ---------------------------------------------------------------------------------------------

    def correct_many(
        self, pairs: Iterable[Pair], *, return_exceptions: bool = False, **fields: str
    ) -> list[Correction]:
        """Correct a batch of (question, answer); results in order, and one failure never stops the others.

        Args:
            pairs: Questions and answers: pairs of two, or rows such as `{"question": ..., "answer": ...}`.
            return_exceptions: Put an error that would be raised into its place in the list (as asyncio.gather does)
                instead of raising the first one after all others are done.
            **fields: The template's extra fields, the same for all.

        Raises:
            InvalidTextError: Something in the list is no such row; nothing is corrected then.
        """
        with telemetry.span("aligner.correct"):
            return _results(self._settled(pairs_of(pairs), fields), return_exceptions)

    async def acorrect_many(
        self, pairs: Iterable[Pair], *, return_exceptions: bool = False, **fields: str
    ) -> list[Correction]:
        """`correct_many` without blocking the event loop; cancelling it stops the aligner."""
        timeouts = self._timeouts()
        await turnstile.come_in()
        with telemetry.span("aligner.correct"):
            return _results(await self._asettled(pairs_of(pairs), fields, timeouts), return_exceptions)

    def _begun(
        self,
        asked: list[tuple[Any, Any]],
        backend: Backend,
        fields: dict[str, str],
        timeouts: Timeouts,
        plan: Plan | BackendError,
    ) -> list[Job]:
        return [Job(self.policy, backend, *pair, fields, timeouts).begin(plan) for pair in asked]

    def _settled(self, asked: list[tuple[Any, Any]], fields: dict[str, str]) -> list[Correction | AlignerError]:
        backend, timeouts, told = self.wrapped_backend, self._timeouts(), self.listener
        jobs = self._begun(asked, backend, fields, timeouts, self._plans.get(timeouts))
        for _ in range(self.policy.rounds):
            if waiting := open_jobs(jobs):
                for job, score in zip(waiting, scores(waiting, backend), strict=True):
                    job.judge(score)
            if waiting := open_jobs(jobs):
                for job, result in zip(waiting, completions(waiting, backend), strict=True):
                    job.take(result)
        for job in changed_jobs(jobs):
            job.mend()
        for job in changed_jobs(jobs):
            job.check()
        return [job.settled(told, i) for i, job in enumerate(jobs)]

    async def _asettled(
        self, asked: list[tuple[Any, Any]], fields: dict[str, str], timeouts: Timeouts
    ) -> list[Correction | AlignerError]:
        backend, told = self.wrapped_backend, self.listener
        jobs = self._begun(asked, backend, fields, timeouts, await self._plans.aget(timeouts))
        for _ in range(self.policy.rounds):
            if waiting := open_jobs(jobs):
                for job, score in zip(waiting, await ascores(waiting, backend), strict=True):
                    await job.ajudge(score)
            if waiting := open_jobs(jobs):
                for job, result in zip(waiting, await acompletions(waiting, backend), strict=True):
                    job.take(result)
        for job in changed_jobs(jobs):
            await job.amend()
        for job in changed_jobs(jobs):
            await job.acheck()
        return [await job.asettled(told, i) for i, job in enumerate(jobs)]

    # As it is written -----------------------------------------------------------------------------------------------

    def stream(self, question: str, answer: str, **fields: str) -> CorrectionStream:
        """Yield the corrected text as the aligner writes it; the `Correction` is on the stream at its end.

        With `accept`, `repair`, `rounds` above 1 or `edits="marked"` the text comes after the last decision. With guarded edits
        it comes as it is written, but for sentences that change: each of those comes once the correction is behind it. An error
        after the first piece is raised whatever `on_error` says, because that piece is out.
        """
        return CorrectionStream(self._pieces(question, answer, fields))

    def astream(self, question: str, answer: str, **fields: str) -> AsyncCorrectionStream:
        """`stream` without blocking the event loop; closing it stops the aligner."""
        return AsyncCorrectionStream(self._apieces(question, answer, fields))

    def _pieces(self, question: str, answer: str, fields: dict[str, str]) -> Generator[str, None, Correction]:
        if self.policy.decides_late:
            correction = self.correct(question, answer, **fields)
            yield correction.text
            return correction
        backend, timeouts = self.wrapped_backend, self._timeouts()
        job = Job(self.policy, backend, question, answer, fields, timeouts).begin(self._plans.get(timeouts))
        live = LiveText(job)
        if live.judges_first:
            job.judge(*scores([job], backend))
        if not job.done:
            pieces = (
                backend.stream(job.request()) if job.keep is None else backend.stream_unless(job.request(), job.keep)
            )
            try:
                for piece in pieces:
                    if shown := live.feed(piece):
                        yield shown
            except ONE_CORRECTION as error:
                live.fail(error)
            if rest := live.end():
                yield rest
        (correction,) = _results([job.settled(self.listener)])
        if not live.started:
            yield correction.text
        return correction

    async def _apieces(
        self, question: str, answer: str, fields: dict[str, str]
    ) -> AsyncGenerator[str | Correction, None]:
        if self.policy.decides_late:
            correction = await self.acorrect(question, answer, **fields)
            yield correction.text
            yield correction
            return
        timeouts = self._timeouts()
        await turnstile.come_in()
        backend = self.wrapped_backend
        job = Job(self.policy, backend, question, answer, fields, timeouts).begin(await self._plans.aget(timeouts))
        live = LiveText(job)
        if live.judges_first:
            await job.ajudge(*await ascores([job], backend))
        if not job.done:
            request, keep = job.request(), job.keep
            pieces = backend.astream(request) if keep is None else backend.astream_unless(request, keep)
            try:
                async with closing_at_end(pieces):
                    async for piece in pieces:
                        if shown := live.feed(piece):
                            yield shown
            except ONE_CORRECTION as error:
                live.fail(error)
            if rest := live.end():
                yield rest
        (correction,) = _results([await job.asettled(self.listener)])
        if not live.started:
            yield correction.text
        yield correction

    def prefill(self, question: str | Callable[[], str | None], **fields: str) -> Prefill:
        """Read a question, and an answer that the upstream still writes, so that its correction starts sooner.

        The correction itself is made as it is without, once the answer is complete; see `Prefill`.

        Args:
            question: What the upstream was asked, or a function that finds it out at the answer's second piece. If it
                returns None, nothing is read; if it is wrong, what was read is of no use.
            **fields: The template's extra fields.
        """

        def open_reader(beginning: str) -> Reader | None:
            if not self.policy.structured and beginning.lstrip().startswith(("{", "[", "<")):
                return None
            asked = question() if callable(question) else question
            if asked is None:
                return None
            return self.backend.prefill(lambda answer: self.template.opening(asked, answer, **fields))

        return Prefill(open_reader)

    # The aligner's judgement ----------------------------------------------------------------------------------------

    def score(self, question: str, answer: str, **fields: str) -> Score:
        """Judge an answer in one forward pass: how likely the aligner is to repeat it, and where it objects.

        Raises:
            ConfigurationError: This backend has no scores.
            AlignerError: The answer cannot be used, or the backend failed.
        """
        timeouts = self._timeouts()
        request = self._scorable(question, answer, fields, timeouts, self._plans.get(timeouts))
        threads.run(self._require_score, Deadline(timeouts.deadline).left)
        return _unwrap(self.wrapped_backend.score([request])[0])

    async def ascore(self, question: str, answer: str, **fields: str) -> Score:
        """`score` without blocking the event loop."""
        timeouts = self._timeouts()
        await turnstile.come_in()
        request = self._scorable(question, answer, fields, timeouts, await self._plans.aget(timeouts))
        await threads.arun(self._require_score, Deadline(timeouts.deadline).left)
        return _unwrap((await self.wrapped_backend.ascore([request]))[0])

    def _require_score(self) -> None:
        if self.backend.can_score is False:
            raise ConfigurationError(
                f"A score needs the aligner's probabilities, which {type(self.backend).__name__} has not."
            )

    def _scorable(
        self, question: str, answer: str, fields: dict[str, str], timeouts: Timeouts, plan: Plan | BackendError
    ) -> Request:
        job = Job(self.policy, self.backend, question, answer, fields, timeouts).begin(plan)
        if job.error:
            raise job.error
        return job.request()


def _results(settled: list[Correction | AlignerError], return_exceptions: bool = False) -> list[Correction]:
    """Raise the first error, unless the list may hold errors, as that of asyncio.gather does."""
    first = next((one for one in settled if isinstance(one, AlignerError)), None)
    if first is not None and not return_exceptions:
        raise first
    return cast("list[Correction]", settled)


def _unwrap(result: Score | AlignerError) -> Score:
    if isinstance(result, AlignerError):
        raise result
    return result
