"""`AlignerRunnable`: the step of a chain that corrects what the LLM before it said.

What lives elsewhere: finding the question (`upstream.py`), LangChain's values (`messages.py`), and what is corrected
and what is not (`Aligner` in `aligner.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from typing import Any, Literal, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import set_config_context

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError, InvalidTextError, QuestionNotFoundError
from aligner_integrations.langchain.messages import (
    Answer,
    ChunkWriter,
    Incoming,
    join,
    last_question,
    read,
    reason_to_leave,
    text_of,
    with_correction,
)
from aligner_integrations.langchain.upstream import RECORDER, Call, install

_logger = logging.getLogger(__name__)
_guesses_logged: set[str] = set()  # once a kind and process; a chain may guess a million times


@dataclass(frozen=True, slots=True)
class _Task:
    """One answer to correct, or to leave alone for a reason."""

    value: Any
    incoming: Incoming
    reason: str | None = None
    question: str = ""
    question_from: str | None = None
    call: Call | None = None

    @property
    def text(self) -> str:
        return text_of(self.incoming.answer)


class AlignerRunnable(Runnable[Any, Any]):
    """Corrects the answer of the LLM before it: `prompt | llm | AlignerRunnable()`.

    Takes a string, an AIMessage, a list of messages that ends with an AIMessage, or a dict with `"answer"` (and
    `"question"`) or `"messages"`, and returns the same with the answer's text corrected. A question given with the
    answer counts; otherwise the runnable finds what the LLM was asked by itself. An AIMessage keeps everything but its
    text, and carries what happened as `response_metadata["aligner"]`; messages with tool calls or without text are
    left alone. Streams hold the upstream back and then give out the aligner's own words as it writes them.
    A `batch` is one batch for the aligner. Extra fields of the template are bound: `.bind(aspects="harmless")`.

    Safe to share between threads and tasks.

    Args:
        aligner: The aligner. Default: `Aligner(**options)`.
        question: Picks the question from the messages the LLM was given. Default: the last human message.
        on_guess: Whether a question may be used that is only likely to be the right one: the last of several, or the
            chain's input. `"allow"` logs that once; `"raise"` makes it a QuestionNotFoundError.
        include_original: Also put the uncorrected text into the record.
        **options: Options of `Aligner`, such as `model`.

    Raises:
        ConfigurationError: Options that do not fit together.
    """

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        question: Callable[[list[BaseMessage]], str] | None = None,
        on_guess: Literal["allow", "raise"] = "allow",
        include_original: bool = False,
        **options: Any,
    ) -> None:
        if aligner is not None and not isinstance(aligner, Aligner):
            raise ConfigurationError(
                f"aligner must be an Aligner, got {type(aligner).__name__}; a model is given as Aligner(model)."
            )
        if aligner is not None and options:
            raise ConfigurationError(f"Give either an aligner or its options, not both: {', '.join(sorted(options))}.")
        if on_guess not in ("allow", "raise"):
            raise ConfigurationError(f"on_guess is {on_guess!r}; it takes 'allow' or 'raise'.")
        self.aligner = Aligner(**options) if aligner is None else aligner
        self.question = question
        self.on_guess: Literal["allow", "raise"] = on_guess
        self.include_original = include_original
        install()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickled in another process, the runnable needs the recorder there too."""
        self.__dict__.update(state)
        install()

    # One answer -----------------------------------------------------------------------------------------------------

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Correct one answer.

        Args:
            input: The answer, in one of the forms the class names.
            config: LangChain's configuration of this call.
            **kwargs: The template's extra fields.

        Raises:
            InputError: No answer or no question in the input.
            AlignerError: As the aligner's `on_error`, `on_overflow` and `on_reject` say.
        """

        def run(value: Any, run_manager: CallbackManagerForChainRun) -> Any:
            return _unwrap(self._correct([value], [run_manager], kwargs)[0])

        return self._call_with_config(run, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """`invoke` without blocking the event loop; cancelling it stops the aligner."""

        async def run(value: Any, run_manager: AsyncCallbackManagerForChainRun) -> Any:
            return _unwrap((await self._acorrect([value], [run_manager], kwargs))[0])

        return await self._acall_with_config(run, input, config)

    # Many, as one batch for the aligner -----------------------------------------------------------------------------

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Correct many answers in one batch; one failure never stops the others.

        Args:
            inputs: The answers.
            config: One configuration for all, or one for each.
            return_exceptions: Put an error into its place in the list instead of raising the first one.
            **kwargs: The template's extra fields, the same for all.
        """

        def run(
            values: list[Any], run_manager: list[CallbackManagerForChainRun], config: list[RunnableConfig]
        ) -> list[Any]:
            # Unlike invoke, LangChain sets no context here, and an aligner that is an LLM would report to no run of ours.
            with set_config_context(config[0]) as context:
                return context.run(self._correct, values, run_manager, kwargs)

        return self._batch_with_config(run, inputs, config, return_exceptions=return_exceptions)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """`batch` without blocking the event loop."""

        async def run(
            values: list[Any], run_manager: list[AsyncCallbackManagerForChainRun], config: list[RunnableConfig]
        ) -> list[Any]:
            with set_config_context(config[0]) as context:
                return await asyncio.create_task(self._acorrect(values, run_manager, kwargs), context=context)

        return await self._abatch_with_config(run, inputs, config, return_exceptions=return_exceptions)

    # As it is written -----------------------------------------------------------------------------------------------

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """Hold the upstream's chunks back, then yield the corrected answer as the aligner writes it."""
        with ExitStack() as opened:  # closed with this generator, not when LangChain's one inside is collected

            def run(chunks: Iterator[Any], run_manager: CallbackManagerForChainRun) -> Iterator[Any]:
                pieces = self._pieces(chunks, run_manager, kwargs)
                opened.callback(pieces.close)
                return pieces

            yield from self._transform_stream_with_config(input, run, config)

    async def atransform(
        self,
        input: AsyncIterator[Any],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """`transform` without blocking the event loop; closing it stops the aligner."""

        def run(chunks: AsyncIterator[Any], run_manager: AsyncCallbackManagerForChainRun) -> AsyncIterator[Any]:
            return self._apieces(chunks, run_manager, kwargs)

        chunks = cast("AsyncGenerator[Any, None]", self._atransform_stream_with_config(input, run, config))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """Correct one answer and yield it as the aligner writes it; adding up the chunks gives what `invoke` returns."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: A002
        """`stream` without blocking the event loop; closing it stops the aligner."""

        async def one() -> AsyncIterator[Any]:
            yield input

        async with aclosing(cast("AsyncGenerator[Any, None]", self.atransform(one(), config, **kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _pieces(
        self, chunks: Iterator[Any], run: CallbackManagerForChainRun, fields: dict[str, Any]
    ) -> Generator[Any, None, None]:
        if not (held := list(chunks)):
            return
        task = self._task(join(held), run)
        writer = ChunkWriter(task.value, task.incoming)
        if task.reason or not writer.live:
            correction = _left(task) if task.reason else self.aligner.correct(task.question, task.text, **fields)
        else:
            with closing(self.aligner.stream(task.question, task.text, **fields)) as pieces:
                for piece in pieces:
                    yield from writer.piece(piece)
            correction = cast("Correction", pieces.correction)
        yield from writer.last(self._corrected(task, correction))

    async def _apieces(
        self, chunks: AsyncIterator[Any], run: AsyncCallbackManagerForChainRun, fields: dict[str, Any]
    ) -> AsyncIterator[Any]:
        if not (held := [chunk async for chunk in chunks]):
            return
        task = self._task(join(held), run)
        writer = ChunkWriter(task.value, task.incoming)
        if task.reason or not writer.live:
            correction = _left(task) if task.reason else await self.aligner.acorrect(task.question, task.text, **fields)
        else:
            async with aclosing(self.aligner.astream(task.question, task.text, **fields)) as pieces:
                async for piece in pieces:
                    for chunk in writer.piece(piece):
                        yield chunk
            correction = cast("Correction", pieces.correction)
        for chunk in writer.last(self._corrected(task, correction)):
            yield chunk

    # Steps shared by the synchronous and asynchronous paths ---------------------------------------------------------

    def _correct(
        self, values: list[Any], runs: Sequence[CallbackManagerForChainRun], fields: dict[str, Any]
    ) -> list[Any]:
        tasks = self._tasks(values, runs)
        pairs = _pairs(tasks)
        corrections = self.aligner.correct_many(pairs, return_exceptions=True, **fields) if pairs else []
        return self._results(tasks, corrections)

    async def _acorrect(
        self, values: list[Any], runs: Sequence[AsyncCallbackManagerForChainRun], fields: dict[str, Any]
    ) -> list[Any]:
        tasks = self._tasks(values, runs)
        pairs = _pairs(tasks)
        corrections = await self.aligner.acorrect_many(pairs, return_exceptions=True, **fields) if pairs else []
        return self._results(tasks, corrections)

    def _tasks(
        self, values: list[Any], runs: Sequence[CallbackManagerForChainRun | AsyncCallbackManagerForChainRun]
    ) -> list[_Task | Exception]:
        tasks: list[_Task | Exception] = []
        for value, run in zip(values, runs, strict=True):
            try:
                tasks.append(self._task(value, run))
            except Exception as error:  # noqa: BLE001 - also what the caller's question= raises; each value fails alone
                tasks.append(error)
        return tasks

    def _task(self, value: Any, run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun) -> _Task:
        """Find answer and question."""
        RECORDER.enter(run.run_id)
        incoming = read(value)
        if reason := reason_to_leave(incoming.answer):
            return _Task(value, incoming, reason)
        given = incoming.question
        if isinstance(given, str):
            return _Task(value, incoming, question=given, question_from="explicit")
        if given and (question := self._ask(given)):
            return _Task(value, incoming, question=question, question_from="explicit")
        return self._look_up(value, incoming, run.parent_run_id)

    def _look_up(self, value: Any, incoming: Incoming, run_id: UUID | None) -> _Task:
        found = RECORDER.find(incoming.answer, run_id)
        question, how, guess = found.question(self._ask)
        if not question:
            raise QuestionNotFoundError(
                f"What the LLM was asked was found ({how}), but no text in it to take as the question."
            )
        if guess and self.on_guess == "raise":
            raise QuestionNotFoundError(
                f"The question could only be guessed ({how}), and on_guess is 'raise'. Hand on the AIMessage instead of "
                "its text, or pass {'question': ..., 'answer': ...}."
            )
        if guess and how not in _guesses_logged:
            _guesses_logged.add(how)
            _logger.warning(
                "An aligner guessed what the LLM was asked (%s), because the answer alone does not tell. This is said once; "
                "set on_guess='raise' to make it an error.",
                how,
            )
        return _Task(value, incoming, question=question, question_from=how, call=found.call)

    def _ask(self, messages: Sequence[BaseMessage]) -> str:
        if self.question is None:
            return last_question(messages)
        question = self.question(list(messages))
        if not isinstance(question, str):
            raise InvalidTextError(f"question= must return a string, got {type(question).__name__}.")
        return question

    def _results(self, tasks: list[_Task | Exception], corrections: list[Correction]) -> list[Any]:
        """One result a task: the value with the answer corrected, or an error."""
        waiting = iter(cast("list[Correction | AlignerError]", corrections))
        results: list[Any] = []
        for task in tasks:
            if isinstance(task, Exception):
                results.append(task)
                continue
            correction = _left(task) if task.reason else next(waiting)
            if isinstance(correction, Exception):
                results.append(correction)
            else:
                results.append(task.incoming.put(self._corrected(task, correction)))
        return results

    def _corrected(self, task: _Task, correction: Correction) -> Answer:
        """The answer with its text corrected and the record attached."""
        answer = task.incoming.answer
        if task.call is not None:
            RECORDER.note(task.call, None if isinstance(answer, str) else answer.id, correction.text)
        record = correction.record(include_original=self.include_original)
        return with_correction(answer, correction, {**record, "question_from": task.question_from})


def _pairs(tasks: list[_Task | Exception]) -> list[tuple[str, str]]:
    return [(task.question, task.text) for task in tasks if isinstance(task, _Task) and not task.reason]


def _left(task: _Task) -> Correction:
    return Correction(task.question, task.text, task.text, "skipped", task.reason)


def _unwrap(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result
