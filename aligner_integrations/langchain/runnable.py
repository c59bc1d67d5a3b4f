"""`AlignerRunnable`: the step of a chain that corrects what the LLM before it said.

What lives elsewhere: from a value to the question and back (`tasks.py`, `messages.py`, `question/`), the chunks of a stream
(`chunks.py`), runs and traces (`correction_run.py`), and what is corrected and what is not (`aligner.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
from langchain_core.runnables.config import set_config_context
from pydantic import ConfigDict, PrivateAttr

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.langchain.answer import Answer, text_of
from aligner_integrations.langchain.callbacks import Run
from aligner_integrations.langchain.chunks import awrite, join, write
from aligner_integrations.langchain.messages import text_in
from aligner_integrations.langchain.question.recorder import RECORDER, UpstreamRecorder, install
from aligner_integrations.langchain.question.user import IsUser
from aligner_integrations.langchain.tasks import (
    Finder,
    Picker,
    Reading,
    Results,
    Task,
    acorrect_all,
    correct_all,
    given_aligner,
    unwrap,
)


class AlignerRunnable(RunnableSerializable[Any, Any]):
    """Corrects the answer of the LLM before it: `prompt | llm | AlignerRunnable()`.

    Takes a string, an AIMessage (or its role and content as a dict, or its list of content blocks), a list of messages
    that ends with an AIMessage, or a dict with `"answer"`, `"output"` or `"result"` (and `"question"` or `"input"`) or
    with `"messages"`, and returns the same with the answer's text corrected. A question given with the answer counts;
    otherwise the runnable finds what the LLM was asked by itself. An AIMessage keeps everything but its text, and
    carries what happened as `response_metadata["aligner"]`; messages with tool calls, refusals, structured output, messages
    without text, and answers to a message of the user without words are left alone. Of a blocked answer nothing stays but
    the block message. Streams hold the upstream back and then give out the aligner's own words as
    it writes them. A `batch` is one batch for the aligner, and in callbacks and traces each correction is a run named
    "correction". Extra fields of the template are bound: `.bind(aspects="harmless")`.

    What a step at the end of a pipe cannot do: it sees an LLM's answer when that LLM has already reported its tokens
    to whoever listens to *all* runs. What the chain returns and streams is corrected; the uncorrected tokens are still in
    `astream_events`, `astream_log`, LangGraph's `stream_mode="messages"`, and the user's own `on_llm_new_token`. Where
    those are shown to people, put the aligner around the LLM: `prompt | AlignedChatModel(llm=llm)`.

    Safe to share between threads and tasks.

    Args:
        aligner: The aligner. Default: `Aligner(**options)`.
        question: Where the question is in what the LLM was asked. A function picks it from the messages. A name is
            that of a variable of the prompt template, else of a key of the chain's input: for retrieval, where the
            last human message holds the context as well. Default: the user's last message.
        is_user: Whether a human message is the user's, for programs' messages without a mark.
        on_guess: Whether a question may be used that is only likely to be the right one: the last of several, or the
            chain's input. `"allow"` logs that once; `"raise"` makes it a QuestionNotFoundError.
        include_original: Also put the uncorrected text into the record.
        keep_reasoning: Whether an answer that the aligner has read, changed or not, keeps what its LLM thought, which it has not.
        hook: Whether to install the process-wide callback hook that finds the question. Without it (or with the
            environment variable `ALIGNER_NO_UPSTREAM=1`), give the question with the answer, or use `after`.
        name: Name of the runs.
        **options: Options of `Aligner`, such as `model`.

    Raises:
        ConfigurationError: Options that do not fit together.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    aligner: Aligner
    question: Picker | str | None = None
    is_user: IsUser | None = None
    on_guess: Literal["allow", "raise"] = "allow"
    include_original: bool = False
    keep_reasoning: bool = True
    hook: bool = True

    _recorder: UpstreamRecorder = PrivateAttr(default=RECORDER)

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        question: Picker | str | None = None,
        is_user: IsUser | None = None,
        on_guess: Literal["allow", "raise"] = "allow",
        include_original: bool = False,
        keep_reasoning: bool = True,
        hook: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        if on_guess not in ("allow", "raise"):
            raise ConfigurationError(f"on_guess is {on_guess!r}; it takes 'allow' or 'raise'.")
        if not (question is None or callable(question) or (isinstance(question, str) and question)):
            raise ConfigurationError(f"question is {question!r}; it takes a function or the name of a variable.")
        fields: dict[str, Any] = {
            "aligner": given_aligner(aligner, options),
            "question": question,
            "is_user": is_user,
            "on_guess": on_guess,
            "include_original": include_original,
            "keep_reasoning": keep_reasoning,
            "hook": hook,
            "name": name,
        }
        super().__init__(**fields)
        if hook:
            install()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickled in another process, the runnable needs the recorder there too."""
        super().__setstate__(state)
        if self.hook:
            install()

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What it takes."""
        return str | AIMessage | list[Any] | dict[str, Any]

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What it returns: always the type that came in."""
        return str | AIMessage | list[Any] | dict[str, Any]

    def after(self, chain: RunnableLike[Any, Any]) -> Runnable[Any, Any]:
        """Return `chain | self` with a recorder of its own, so that no process-wide hook is needed.

        With `AlignerRunnable(aligner, hook=False).after(prompt | llm)` only the runs of that chain are followed.

        Args:
            chain: A chain that ends with an LLM's answer.
        """
        recorder = UpstreamRecorder()
        step = self.model_copy()
        step._recorder = recorder
        # A factory adds to the callbacks that a call inherits; `with_config` would replace them.
        return RunnableBinding(
            bound=coerce_to_runnable(chain) | step, config_factories=[partial(_recorded_by, recorder)]
        )

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
            return unwrap(self._correct_all([value], [run_manager], kwargs)[0])

        return self._call_with_config(run, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """`invoke` without blocking the event loop; cancelling it stops the aligner."""

        async def run(value: Any, run_manager: AsyncCallbackManagerForChainRun) -> Any:
            return unwrap((await self._acorrect_all([value], [run_manager], kwargs))[0])

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
                return context.run(self._correct_all, values, run_manager, kwargs)

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
                return await asyncio.create_task(self._acorrect_all(values, run_manager, kwargs), context=context)

        return await self._abatch_with_config(run, inputs, config, return_exceptions=return_exceptions)

    # As it is written -----------------------------------------------------------------------------------------------

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """Hold the upstream's chunks back while the aligner reads them, then yield the corrected answer as it writes it."""
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
        held: list[Any] = []
        with self.aligner.prefill(lambda: self._finder.likely_question(held[0], run), **fields) as prefill:
            for chunk in chunks:
                held.append(chunk)
                prefill.feed(text_in(chunk))
            if held:
                yield from write(self.aligner, self._task(join(held), run), fields, self._corrected)

    async def _apieces(
        self, chunks: AsyncIterator[Any], run: AsyncCallbackManagerForChainRun, fields: dict[str, Any]
    ) -> AsyncIterator[Any]:
        held: list[Any] = []
        with self.aligner.prefill(lambda: self._finder.likely_question(held[0], run), **fields) as prefill:
            async for chunk in chunks:
                held.append(chunk)
                prefill.feed(text_in(chunk))
            if held:
                task = self._task(join(held), run)
                async with aclosing(awrite(self.aligner, task, fields, self._corrected)) as written:
                    async for chunk in written:
                        yield chunk

    # Steps shared by the synchronous and asynchronous paths ---------------------------------------------------------

    def _correct_all(
        self, values: list[Any], runs: Sequence[CallbackManagerForChainRun], fields: dict[str, Any]
    ) -> list[Any]:
        tasks = self._tasks(values, runs)
        return self._results(tasks, correct_all(self.aligner, tasks, fields))

    async def _acorrect_all(
        self, values: list[Any], runs: Sequence[AsyncCallbackManagerForChainRun], fields: dict[str, Any]
    ) -> list[Any]:
        tasks = self._tasks(values, runs)
        return self._results(tasks, await acorrect_all(self.aligner, tasks, fields))

    def _tasks(self, values: list[Any], runs: Sequence[Run]) -> list[Task | Exception]:
        tasks: list[Task | Exception] = []
        for value, run in zip(values, runs, strict=True):
            try:
                tasks.append(self._task(value, run))
            except Exception as error:  # noqa: BLE001 - also what the caller's question= raises; each value fails alone
                tasks.append(error)
        return tasks

    def _task(self, value: Any, run: Run) -> Task:
        return self._finder.task(value, run)

    @property
    def _finder(self) -> Finder:
        reading = Reading(self.question, self.is_user, self.include_original, self.keep_reasoning)
        return Finder(self._recorder, reading, self.on_guess)

    def _results(self, tasks: list[Task | Exception], results: Results) -> list[Any]:
        """One result a task: the value with the answer corrected, or an error."""

        def put(task: Task, correction: Correction) -> Any:
            return task.incoming.put(self._corrected(task, correction))

        return [
            result if isinstance(result, Exception) else put(cast("Task", task), result)
            for task, result in zip(tasks, results, strict=True)
        ]

    def _corrected(self, task: Task, correction: Correction) -> Answer:
        answer = task.corrected(correction)
        if task.call is not None:
            self._recorder.note(task.call, None if isinstance(answer, str) else answer.id, text_of(answer))
        return answer


def _recorded_by(recorder: UpstreamRecorder, config: RunnableConfig) -> RunnableConfig:
    return {"callbacks": [recorder]}
