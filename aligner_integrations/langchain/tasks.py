"""One answer on its way through the aligner: which question belongs to it, and why it may be left alone.

What lives elsewhere: the parts of LangChain's values (`messages.py`), the record of who asked what (`question/`), the
correction as a run (`correction_run.py`), and what is done with a task (`runnable.py`, `chat_model.py`, `node.py`,
`agents/`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AlignerError, ConfigurationError, InvalidTextError, QuestionNotFoundError
from aligner_integrations.langchain import correction_run
from aligner_integrations.langchain.answer import Answer, answer_in, with_correction, without_reasoning
from aligner_integrations.langchain.callbacks import Run
from aligner_integrations.langchain.correction_run import Work
from aligner_integrations.langchain.messages import Incoming, read, reason_to_leave
from aligner_integrations.langchain.question.matching import Asked
from aligner_integrations.langchain.question.recorder import UpstreamRecorder
from aligner_integrations.langchain.question.run_tree import Call
from aligner_integrations.langchain.question.user import IsUser, last_question

_logger = logging.getLogger(__name__)
_guesses_logged: set[str] = set()  # once a kind and process; a chain may guess a million times

_RECORD = "aligner"
NO_QUESTION = "no_question"
"""Why an answer is left alone whose question has no words, or is nowhere in the messages."""

ASKED = "messages"
"""Where the question was found, if not looked up: in what the LLM was given."""

EXPLICIT = "explicit"
"""The same: beside the answer."""

Picker = Callable[[list[BaseMessage]], str]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Reading:
    """How messages are read and written: what the classes of this folder have in common.

    Attributes:
        question: Picks the question from messages, or names a variable that holds it. Default: the user's last message.
        is_user: Whether a human message is the user's; see `IsUser`.
        include_original: Whether the uncorrected text goes into the record.
        keep_reasoning: Whether an answer that the aligner has read keeps what its LLM thought, which no aligner reads.
    """

    question: Picker | str | None = None
    is_user: IsUser | None = None
    include_original: bool = False
    keep_reasoning: bool = True

    def picked(self, messages: Sequence[BaseMessage]) -> str | None:
        """Return the question in messages; "" and None as `last_question` has them.

        Raises:
            InvalidTextError: The caller's function returned something else than text.
        """
        if not callable(self.question):
            return last_question(messages, self.is_user)
        text = self.question(list(messages))
        if not isinstance(text, str):
            raise InvalidTextError(f"question= must return a string, got {type(text).__name__}.")
        return text or None

    def asked(self, messages: Sequence[BaseMessage]) -> str:
        """Return the question in all that an LLM was given; "" if it has no words.

        Raises:
            QuestionNotFoundError: There is no text to take as the question.
            InvalidTextError: The caller's function returned something else than text.
        """
        if (text := self.picked(messages)) is None:
            raise QuestionNotFoundError("There is no text in the messages to take as the question.")
        return text

    def task_of(
        self,
        answer: AIMessage,
        messages: Sequence[BaseMessage],
        run: Run | None,
        reason: str | None,
        *,
        traced: bool = True,
    ) -> Task:
        """Return the task of a message whose conversation is at hand.

        Args:
            answer: The message.
            messages: All that the LLM was given.
            run: The run that asks for the correction.
            reason: Why the message is left alone; None if it is to be corrected.
            traced: Whether callbacks and traces see the correction.

        Raises:
            QuestionNotFoundError: The message is to be corrected, and there is no text to take as the question.
            InvalidTextError: The caller's function returned something else than text.
        """
        question = None if reason else self.asked(messages)
        return self.task(answer, read(answer), question, ASKED, run, reason or _wordless(question), traced=traced)

    def task(
        self,
        value: Any,
        incoming: Incoming,
        question: str | None,
        how: str,
        run: Run | None,
        reason: str | None = None,
        *,
        traced: bool = True,
        call: Call | None = None,
    ) -> Task:
        """Return the task of a value; the arguments are those of `Task` and `Work`."""
        if not (reason or self.keep_reasoning):
            incoming = dataclasses.replace(incoming, answer=without_reasoning(incoming.answer))
        work = Work(question or "", answer_in(incoming.answer), None if reason else how, run, traced)
        return Task(value, incoming, work, self, reason, call)


def _wordless(question: str | None) -> str | None:
    return NO_QUESTION if question == "" else None


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to correct, or to leave alone for a reason.

    Attributes:
        value: What holds the answer.
        incoming: Where in the value it is.
        work: Its text, the question, and the run that asks for the correction.
        reading: How messages are read and written.
        reason: Why it is left alone; None if it is to be corrected.
        call: The LLM call it came from, if that was looked up.
    """

    value: Any
    incoming: Incoming
    work: Work
    reading: Reading = Reading()
    reason: str | None = None
    call: Call | None = None

    def left(self) -> Correction:
        """Return what stands for the correction of an answer that is left alone."""
        return Correction(self.work.question, self.work.answer, self.work.answer, "skipped", self.reason)

    def corrected(self, correction: Correction) -> Answer:
        """Return the answer with its text corrected and the record attached.

        What is left alone keeps the record of an aligner before this one.
        """
        answer = self.incoming.answer
        if self.reason and isinstance(answer, AIMessage) and _RECORD in answer.response_metadata:
            return answer
        record = correction.record(include_original=self.reading.include_original)
        return with_correction(answer, correction, {**record, "question_from": self.work.question_from})


Results = list[Correction | Exception]


def correct_all(aligner: Aligner, tasks: Sequence[Task | Exception], fields: dict[str, Any]) -> Results:
    """Correct answers in one batch, but for those that are left alone; errors stand in their places in the list."""
    return _in_order(tasks, correction_run.correct_many(aligner, _works(tasks), fields))


async def acorrect_all(aligner: Aligner, tasks: Sequence[Task | Exception], fields: dict[str, Any]) -> Results:
    """`correct_all` without blocking the event loop; cancelling it stops the aligner."""
    return _in_order(tasks, await correction_run.acorrect_many(aligner, _works(tasks), fields))


def _works(tasks: Sequence[Task | Exception]) -> list[Work]:
    return [task.work for task in tasks if isinstance(task, Task) and not task.reason]


def _in_order(tasks: Sequence[Task | Exception], corrections: Sequence[Correction | AlignerError]) -> Results:
    waiting = iter(corrections)
    return [t if isinstance(t, Exception) else t.left() if t.reason else next(waiting) for t in tasks]


def correct(aligner: Aligner, task: Task, fields: dict[str, Any]) -> Correction:
    """Correct one answer, or leave it alone.

    Raises:
        AlignerError: As the aligner's policies say.
    """
    return unwrap(correct_all(aligner, [task], fields)[0])


async def acorrect(aligner: Aligner, task: Task, fields: dict[str, Any]) -> Correction:
    """`correct` without blocking the event loop; cancelling it stops the aligner."""
    return unwrap((await acorrect_all(aligner, [task], fields))[0])


def unwrap(result: _Result | Exception) -> _Result:
    """Return a result of a batch; an error that stands in its place is raised."""
    if isinstance(result, Exception):
        raise result
    return result


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
        reading: How messages are read and written.
        on_guess: Whether a question that is only likely may be used.
    """

    recorder: UpstreamRecorder
    reading: Reading
    on_guess: Literal["allow", "raise"]

    @property
    def _name(self) -> str | None:
        return self.reading.question if isinstance(self.reading.question, str) else None

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
        if reason := "structured" if incoming.data else reason_to_leave(incoming.answer):
            return self.reading.task(value, incoming, None, EXPLICIT, run, reason)
        given = incoming.question
        if isinstance(given, str):
            return self.reading.task(value, incoming, given, EXPLICIT, run)
        if given is not None and (question := self.reading.picked(given)) is not None:
            # Messages say whose words they are, and a string does not: that it is empty is then the caller's wish.
            return self.reading.task(value, incoming, question, EXPLICIT, run, _wordless(question))
        question, how, call = self._looked_up(incoming.answer, run.parent_run_id)
        return self.reading.task(value, incoming, question, how, run, _wordless(question), call=call)

    def likely_question(self, value: Any, run: Run) -> str | None:
        """Return the question to a value of which only the beginning is there, if it can be told; nothing hangs on it."""
        try:
            incoming = read(value, self._name)
            if (given := incoming.question) is not None:
                return given if isinstance(given, str) else self.reading.picked(given) or None
            return self.recorder.find(incoming.answer, run.parent_run_id, self._name).question(self._asked)[0] or None
        except Exception as error:  # noqa: BLE001 - `task` will meet it again, and raise it
            _logger.debug("There is no telling yet what the LLM was asked: %s", error)
            return None

    def _looked_up(self, answer: Answer, run_id: UUID | None) -> tuple[str, str, Call | None]:
        """The question, how it was found, and the LLM call it belongs to."""
        found = self.recorder.find(answer, run_id, self._name)
        question, how, guess = found.question(self._asked)
        if question is None:
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

    def _asked(self, asked: Asked) -> str | None:
        if isinstance(name := self.reading.question, str):
            return asked.variable(name, self.reading.picked)
        return self.reading.picked(asked.messages)
