"""`ThoughtAlignerMiddleware`: an agent's thought is corrected before the tool it leads to is run.

The idea is Thought-Aligner's (arXiv 2505.11063): an unsafe plan shows in the thought, so the thought is corrected, and the
LLM chooses its action again from the corrected one.

**What it is worth, and what it costs.** Published for Thought-Aligner-7B: safe behaviour rises from 43.1 to 95.2 (ToolEmu,
GPT-4.1), and helpfulness falls there from 24.3 to 18.8, on AgentHarm from 85.0 to 36.5 (DeepSeek-V3), on AgentDojo from
64.6 to 34.4. So measure yours before you turn it on for harmless work; a `gate` or an `accept` that lets small changes pass
is worth more than a stronger aligner.

What this middleware adds to that was counted on 40 harmful and 40 harmless plans on HarmfulQA's topics, with a scripted agent
and a scripted LLM prompted to be the aligner (`tests/unit/langchain/test_thought_plans.py`), which rewrote all harmful
thoughts and, as aligners do, 6 of the harmless ones:

    plans      tool ran at once   tool ran after one more LLM call   declined   blocked   tools run on a changed thought
    harmless         34                        6                        0          0                  0
    harmful           0                        0                       32          8                  0

The 8 are those whose LLM did not listen and repeated its plan.

What lives elsewhere: thoughts and the aligner's question (`thoughts.py`), and texts that lead to no tool (`middleware.py`,
which goes before this one in the list).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import AnswerTooLongError, ConfigurationError
from aligner_integrations.langchain import callbacks
from aligner_integrations.langchain.agents.replay import StandIn
from aligner_integrations.langchain.agents.thoughts import (
    MAX_THOUGHT,
    as_answer,
    instruction_with_history,
    thought_of,
    with_thought,
)
from aligner_integrations.langchain.agents.types import (
    ModelRequest,
    ModelResponse,
    NamedMiddleware,
    conversation,
    goes_on,
)
from aligner_integrations.langchain.answer import usage_of, with_correction, without_calls
from aligner_integrations.langchain.correction_run import Work
from aligner_integrations.langchain.messages import read
from aligner_integrations.langchain.question.user import IsUser
from aligner_integrations.langchain.tasks import (
    ASKED,
    NO_QUESTION,
    Picker,
    Reading,
    Task,
    acorrect,
    correct,
    given_aligner,
)

AGAIN = (
    "That thought of yours was corrected. Go on from it as it stands: choose your next action, or answer. Do not write a "
    "thought again."
)
"""What the LLM is told after its corrected thought."""


class ThoughtAlignerMiddleware(NamedMiddleware):
    """Corrects what an agent thinks beside a tool call, and lets it choose again, before the tool is run.

    The aligner reads the instruction with the thoughts and observations since, and the thought (text, reasoning fields,
    `<think>`, ReAct's "Thought:"). A thought it does not change goes on. From a changed one the LLM chooses its action
    again, and that answer's own thought is looked at as well. When `attempts` are used up, the message becomes the
    aligner's `block_message` without tool calls: no tool ever runs on a thought that the aligner changed. The thought in
    the state is the corrected one; `response_metadata["aligner"]` says how often the LLM chose again. Answers without tool
    calls and structured output are not touched.

    All streams see is the message that comes of it: like `AlignerMiddleware`, it hides the LLM while it runs.

    Safe to share between agents, threads and tasks.

    Args:
        aligner: An aligner of thoughts, such as `Aligner("WhitzardAgent/Thought-Aligner-7B")`. Default:
            `Aligner(**options)`.
        attempts: How often the LLM may choose again before the message is blocked; 0 blocks at once.
        history: How many thoughts and observations since the user's last message the aligner is given.
        question: Picks the instruction from the messages the LLM was given. Default: the user's last message. Without words in
            it, thoughts are left alone.
        is_user: Whether a human message is the user's, for programs' messages without a mark.
        include_original: Also put the uncorrected thought into the record.
        trace_original: Whether traces and callbacks that are tracers (LangSmith) may see the uncorrected thought.
        name: Name of the middleware.
        **options: Options of `Aligner`, such as `model`.

    Raises:
        ConfigurationError: Options that do not fit together.
        AlignerError: When the agent runs, as the aligner's policies say; a thought of more than 8,000 characters is
            answered by its `on_overflow`.
    """

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        attempts: int = 1,
        history: int = 8,
        question: Picker | None = None,
        is_user: IsUser | None = None,
        include_original: bool = False,
        trace_original: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if attempts < 0 or history < 0:
            raise ConfigurationError(f"attempts is {attempts} and history is {history}; neither can be below 0.")
        self.aligner = given_aligner(aligner, options)
        self.attempts = attempts
        self.history = history
        self.reading = Reading(question, is_user, include_original)
        self.trace_original = trace_original
        self._name = name or type(self).__name__

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Let the LLM choose until its thought may stand, where nobody hears it."""
        turn = _Turn(self, request, callbacks.run_around())
        while True:
            with callbacks.hidden(traced=self.trace_original):
                turn.take(handler(turn.request))
            if (task := turn.task()) is None:
                break
            if not turn.again(turn.too_long(task) or correct(self.aligner, task, {})):
                break
        for place, stand_in in turn.stand_ins():
            turn.put(place, stand_in.speak(conversation(request), traced=self.trace_original))
        return turn.response

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """`wrap_model_call` without blocking the event loop."""
        turn = _Turn(self, request, callbacks.run_around())
        while True:
            with callbacks.hidden(traced=self.trace_original):
                turn.take(await handler(turn.request))
            if (task := turn.task()) is None:
                break
            if not turn.again(turn.too_long(task) or await acorrect(self.aligner, task, {})):
                break
        for place, stand_in in turn.stand_ins():
            turn.put(place, await stand_in.aspeak(conversation(request), traced=self.trace_original))
        return turn.response


class _Turn:
    """One answer of the LLM through all its attempts, and nothing that outlives it.

    Attributes:
        request: What the LLM is asked next.
        response: What it said last.
    """

    def __init__(
        self, middleware: ThoughtAlignerMiddleware, request: ModelRequest[Any], run: callbacks.Run | None
    ) -> None:
        self.request = self._first = request
        self.response: ModelResponse[Any] = ModelResponse(result=[])
        self._middleware = middleware
        self._run = run
        self._attempts = 0
        self._correction: Correction | None = None
        self._usage: UsageMetadata | None = None

    @property
    def _message(self) -> AIMessage | None:
        return next((m for m in reversed(self.response.result) if isinstance(m, AIMessage)), None)

    def take(self, response: ModelResponse[Any]) -> None:
        """Look at what the LLM said."""
        self.response = dataclasses.replace(response, result=list(response.result))
        if (message := self._message) is not None:
            usage = usage_of(message)
            # Two that are None would add up to zeros, which nobody reported.
            self._usage = add_usage(self._usage, usage) if usage else self._usage

    def task(self) -> Task | None:
        """Return the thought to correct, if tools are to be run and there is one that is not the aligner's own."""
        message = self._message
        if message is None or not goes_on(self.response, message):
            return None
        thought = thought_of(message)
        if not thought or (self._correction is not None and thought == self._correction.text):
            return None
        middleware, messages = self._middleware, conversation(self._first)
        instruction = middleware.reading.asked(messages)
        question = instruction_with_history(instruction, messages, middleware.history, middleware.reading.is_user)
        answer = as_answer(thought)
        work = Work(question, answer, ASKED, self._run, middleware.trace_original)
        return Task(answer, read(answer), work, reason=None if instruction else NO_QUESTION)

    def too_long(self, task: Task) -> Correction | None:
        """Return what stands for the correction of a thought beyond all bounds."""
        length = len(task.work.answer)
        if length <= MAX_THOUGHT:
            return None
        error = AnswerTooLongError(
            f"The agent's thought has {length} characters, and an aligner is given {MAX_THOUGHT} at most. Set on_overflow "
            "to keep or block such thoughts."
        )
        return self._middleware.aligner.failed(task.work.question, task.work.answer, error)

    def again(self, correction: Correction) -> bool:
        """Take a correction, and return whether the LLM is to choose again."""
        if not correction.changed:
            self._correction = self._correction or correction
            return False
        if not correction.blocked and self._attempts < self._middleware.attempts:
            self._correction = correction
            self._attempts += 1
            messages = [*self._first.messages, AIMessage(correction.text), HumanMessage(AGAIN)]
            self.request = self._first.override(messages=messages)
            return True
        if not correction.blocked:
            block_message = self._middleware.aligner.policy.block_message
            correction = dataclasses.replace(correction, text=block_message, outcome="rejected", reason="thought")
        self._correction = correction
        return False

    def stand_ins(self) -> Iterator[tuple[int, StandIn]]:
        """For each message of the LLM its place in the response, and what says it."""
        middleware = self._middleware
        for place, message in enumerate(self.response.result):
            if isinstance(message, AIMessage):
                said = self._decided(message) if message is self._message else message
                work = Work("", "", None, self._run, middleware.trace_original)
                task = Task(said, read(said), work, reason="thought")
                yield place, StandIn(hidden=self.request.model, aligner=middleware.aligner, task=task, corrected=_as_is)

    def put(self, place: int, message: AIMessage) -> None:
        """Put a message as it was said into the response."""
        self.response.result[place] = message

    def _decided(self, message: AIMessage) -> AIMessage:
        """The last message with what was decided about its thought."""
        runs_tools = goes_on(self.response, message)
        if self._correction is None and not runs_tools:
            return message
        correction = self._correction or Correction("", "", "", "skipped", "no_thought")
        record = correction.record(include_original=self._middleware.reading.include_original)
        record = {**record, "question_from": ASKED, "chosen_again": self._attempts}
        if correction.blocked:
            message = without_calls(cast("AIMessage", with_correction(message, correction, record)))
        elif correction.changed and runs_tools and not thought_of(message):
            message = with_thought(message, correction.text)
        metadata = {**message.response_metadata, "aligner": record}
        return message.model_copy(update={"response_metadata": metadata, "usage_metadata": self._usage})


def _as_is(task: Task, correction: Correction) -> AIMessage:
    return cast("AIMessage", task.value)
