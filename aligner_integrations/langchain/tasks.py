"""One answer on its way through the aligner: which question belongs to it, and why it may be left alone.

What lives elsewhere: the parts of LangChain's values (`messages.py`), the record of who asked what (`question/`), the
correction as a run (`correction_run.py`), and what is done with a task (`runnable.py`, `chat_model.py`, `node.py`,
`agents/`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError, InvalidTextError, QuestionNotFoundError
from aligner_integrations.langchain import correction_run
from aligner_integrations.langchain.callbacks import Run
from aligner_integrations.langchain.correction_run import Work
from aligner_integrations.langchain.messages import (
    Answer,
    Incoming,
    last_question,
    read,
    reason_to_leave,
    text_of,
    with_correction,
)
from aligner_integrations.langchain.question.matching import Asked
from aligner_integrations.langchain.question.recorder import UpstreamRecorder
from aligner_integrations.langchain.question.run_tree import Call

_logger = logging.getLogger(__name__)
_guesses_logged: set[str] = set()  # once a kind and process; a chain may guess a million times

_RECORD = "aligner"
ASKED = "messages"
"""Where the question was found, if not looked up: in what the LLM was given."""

Picker = Callable[[list[BaseMessage]], str]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to correct, or to leave alone for a reason.

    Attributes:
        value: What holds the answer.
        incoming: Where in the value it is.
        work: Its text, the question, and the run that asks for the correction.
        reason: Why it is left alone; None if it is to be corrected.
        call: The LLM call it came from, if that was looked up.
    """

    value: Any
    incoming: Incoming
    work: Work
    reason: str | None = None
    call: Call | None = None

    def left(self) -> Correction:
        """Return what stands for the correction of an answer that is left alone."""
        return Correction(self.work.question, self.work.answer, self.work.answer, "skipped", self.reason)

    def corrected(self, correction: Correction, *, include_original: bool) -> Answer:
        """Return the answer with its text corrected and the record attached.

        What is left alone keeps the record of an aligner before this one.
        """
        if (
            self.reason
            and isinstance(self.incoming.answer, AIMessage)
            and _RECORD in self.incoming.answer.response_metadata
        ):
            return self.incoming.answer
        record = correction.record(include_original=include_original)
        return with_correction(self.incoming.answer, correction, {**record, "question_from": self.work.question_from})


def correct(aligner: Aligner, task: Task, fields: dict[str, Any]) -> Correction:
    """Correct one answer, or leave it alone.

    Raises:
        AlignerError: As the aligner's policies say.
    """
    if task.reason:
        return task.left()
    (result,) = correction_run.correct_many(aligner, [task.work], fields)
    return unwrap(result)


async def acorrect(aligner: Aligner, task: Task, fields: dict[str, Any]) -> Correction:
    """`correct` without blocking the event loop; cancelling it stops the aligner."""
    if task.reason:
        return task.left()
    (result,) = await correction_run.acorrect_many(aligner, [task.work], fields)
    return unwrap(result)


def unwrap(result: _Result | Exception) -> _Result:
    """Return a result of a batch; an error that stands in its place is raised."""
    if isinstance(result, Exception):
        raise result
    return result


def picked(question: Picker | None, messages: Sequence[BaseMessage]) -> str:
    """Return the question in messages, picked by the caller's function or else the last human message's text.

    Raises:
        InvalidTextError: The function returned something else than text.
    """
    if question is None:
        return last_question(messages)
    text = question(list(messages))
    if not isinstance(text, str):
        raise InvalidTextError(f"question= must return a string, got {type(text).__name__}.")
    return text


def asked(question: Picker | None, messages: Sequence[BaseMessage]) -> str:
    """Return the question in all that an LLM was given.

    Raises:
        QuestionNotFoundError: There is no text to take as the question.
        InvalidTextError: The caller's function returned something else than text.
    """
    if not (text := picked(question, messages)):
        raise QuestionNotFoundError("There is no text in the messages to take as the question.")
    return text


def task_of(
    answer: AIMessage,
    messages: Sequence[BaseMessage],
    question: Picker | None,
    run: Run | None,
    reason: str | None,
    *,
    traced: bool = True,
) -> Task:
    """Return the task of a message whose conversation is at hand.

    Args:
        answer: The message.
        messages: All that the LLM was given.
        question: Picks the question from them. Default: the last human message.
        run: The run that asks for the correction.
        reason: Why the message is left alone; None if it is to be corrected.
        traced: Whether callbacks and traces see the correction.

    Raises:
        QuestionNotFoundError: The message is to be corrected, and there is no text to take as the question.
        InvalidTextError: The caller's function returned something else than text.
    """
    found, how = ("", None) if reason else (asked(question, messages), ASKED)
    return Task(answer, read(answer), Work(found, text_of(answer), how, run, traced), reason)


def given_aligner(aligner: Aligner | None, options: dict[str, Any]) -> Aligner:
    """Return the aligner that was given, or one with the options.

    Raises:
        ConfigurationError: Both were given, or something else than an aligner.
    """
    if aligner is None:
        return Aligner(**options)
    if not isinstance(aligner, Aligner):
        raise ConfigurationError(
            f"aligner must be an Aligner, got {type(aligner).__name__}; a model is given as Aligner(model)."
        )
    if options:
        raise ConfigurationError(f"Give either an aligner or its options, not both: {', '.join(sorted(options))}.")
    return aligner


@dataclass(frozen=True, slots=True)
class Finder:
    """Makes tasks of the values that reach a step of a chain.

    Attributes:
        recorder: Knows who was asked what.
        question: A function that picks the question from messages, or the name of a variable.
        on_guess: Whether a question that is only likely may be used.
    """

    recorder: UpstreamRecorder
    question: Picker | str | None
    on_guess: Literal["allow", "raise"]

    @property
    def _name(self) -> str | None:
        return self.question if isinstance(self.question, str) else None

    def task(self, value: Any, run: Run) -> Task:
        """Find the answer in a value, and its question.

        Args:
            value: What reached the step.
            run: The step's run.

        Raises:
            InputError: There is no answer in the value, or no question for it.
        """
        self.recorder.enter(run.run_id)
        incoming = read(value, self._name)
        text = text_of(incoming.answer)
        if reason := "structured" if incoming.data else reason_to_leave(incoming.answer):
            return Task(value, incoming, Work("", text, None, run), reason)
        given = incoming.question
        question = given if given is None or isinstance(given, str) else self._picked(given)
        if isinstance(given, str) or question:
            return Task(value, incoming, Work(question or "", text, "explicit", run))
        question, how, call = self._looked_up(incoming.answer, run.parent_run_id)
        return Task(value, incoming, Work(question, text, how, run), call=call)

    def likely_question(self, value: Any, run: Run) -> str | None:
        """Return the question to a value of which only the beginning is there, if it can be told; nothing hangs on it."""
        try:
            incoming = read(value, self._name)
            if (given := incoming.question) is not None:
                return given if isinstance(given, str) else self._picked(given)
            return self.recorder.find(incoming.answer, run.parent_run_id, self._name).question(self._asked)[0]
        except Exception as error:  # noqa: BLE001 - `task` will meet it again, and raise it
            _logger.debug("There is no telling yet what the LLM was asked: %s", error)
            return None

    def _looked_up(self, answer: Answer, run_id: UUID | None) -> tuple[str, str, Call | None]:
        """The question, how it was found, and the LLM call it belongs to."""
        found = self.recorder.find(answer, run_id, self._name)
        question, how, guess = found.question(self._asked)
        if not question:
            raise QuestionNotFoundError(
                f"What the LLM was asked was found ({how}), but no text in it to take as the question."
            )
        # The caller named a key of the chain's input, so there it is no guess.
        if guess and not (how == "chain_input" and self._name):
            self._guessed(how)
        return question, how, found.call

    def _guessed(self, how: str) -> None:
        if self.on_guess == "raise":
            raise QuestionNotFoundError(
                f"The question could only be guessed ({how}), and on_guess is 'raise'. Hand on the AIMessage instead of "
                "its text, or pass {'question': ..., 'answer': ...}."
            )
        if how not in _guesses_logged:
            _guesses_logged.add(how)
            _logger.warning(
                "An aligner guessed what the LLM was asked (%s), because the answer alone does not tell. This is said once; "
                "set on_guess='raise' to make it an error.",
                how,
            )

    def _asked(self, asked: Asked) -> str:
        return asked.variable(self.question) if isinstance(self.question, str) else self._picked(asked.messages)

    def _picked(self, messages: Sequence[BaseMessage]) -> str:
        return picked(None if isinstance(self.question, str) else self.question, messages)
