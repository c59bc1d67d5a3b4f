"""`AlignerMiddleware`: an agent of `create_agent` whose words have been through an aligner before anybody sees them.

    agent = create_agent(model, tools, middleware=[AlignerMiddleware(aligner)])

While the LLM runs, its tokens reach no stream, no event and no handler but tracers. What is shown in its place is one
chat model that says the aligned message, as the aligner writes it, under the id of the message in the state. So
`stream_mode="messages"`, `updates`, `values`, `debug`, `astream_events`, `stream_events` and checkpoints hold nothing
that the aligner has not seen. The price: tokens come when the LLM is done, those of tool calls included.

**Place among other middleware.** Early in the list, which makes it an outer layer:

- *ModelRetryMiddleware, ModelFallbackMiddleware, ToolRetryMiddleware* after it: their attempts are hidden as well, and a
  failure of the aligner calls neither the LLM nor the tool again. Before it, one failing aligner means n calls of the LLM,
  and its error's text as the answer.
- *PIIMiddleware and the limits* (`after_model`) anywhere: they see the aligned message.
- *HumanInTheLoopMiddleware* before it. The reviewer sees aligned words in any order, and the aligner is not asked again
  when the run goes on; but that middleware also changes calls that were edited and adds a note to their results, which is
  not for the aligner.
- *SummarizationMiddleware* anywhere: what it summarises is aligned. Its own LLM's tokens are its own to hide. Let it keep
  enough messages: where it takes the user's last message away, what was asked is not known, and answers are left alone
  (`no_question`) unless `question=` tells.
- *Middleware that brings in tools at run time* (`request.override(tool=...)`) before it, if their results are aligned.
- *ThoughtAlignerMiddleware* after it.

What lives elsewhere: tools' results (`tools.py`), thoughts and what follows from them (`thoughts.py`,
`thought_middleware.py`), what streams see (`replay.py`, and `callbacks.py` one folder up), graphs without `create_agent` (`node.py`), and what is corrected and what
is not (`aligner.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal, Self, cast, get_args

from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.langchain import callbacks
from aligner_integrations.langchain.agents.replay import StandIn
from aligner_integrations.langchain.agents.tools import names_of, with_tools
from aligner_integrations.langchain.agents.types import (
    ModelRequest,
    ModelResponse,
    NamedMiddleware,
    conversation,
    goes_on,
)
from aligner_integrations.langchain.answer import without_calls
from aligner_integrations.langchain.messages import reason_to_leave
from aligner_integrations.langchain.question.user import IsUser
from aligner_integrations.langchain.tasks import Picker, Reading, Task, given_aligner

Align = Literal["final", "all", "thoughts"]
"""Which texts of the LLM: what it ends with, what it says beside tool calls ("thoughts"), or both."""


class AlignerMiddleware(NamedMiddleware):
    """Aligns what an agent says before it is in the state, in a checkpoint or in any stream.

    A message keeps its id, name, usage, metadata, tool calls, and blocks that are not text, and carries what happened as
    `response_metadata["aligner"]`. Refusals, structured output of the provider, messages without text, and answers to a
    message of the user without words are left alone. Where the aligner's `on_error`, `on_overflow` or `on_reject` says
    "block", the message becomes the block message and nothing of its own is left, no tool call either, so that none is
    left without a result and the conversation can go on.

    Not touched: what a tool itself puts into the `custom` stream, an artifact, or a state key other than `messages`; the
    words of an agent that works inside a tool of this one, which needs its own middleware; and callbacks that are fixed
    to the model object itself, which hear that model.

    Safe to share between agents, threads and tasks.

    Args:
        aligner: The aligner. Default: `Aligner(**options)`.
        align: Which texts of the LLM are aligned: `"final"` answers, `"thoughts"` (what stands beside tool calls; the calls
            stay as they are, see `ThoughtAlignerMiddleware` for more), `"all"`, or None for none. With "final" an answer
            that stands beside a tool call, such as one of `write_todos`, stays raw: take "all" where that is shown.
        tools: Tools, or their names, whose results are aligned as well, before even the tool's own events tell them.
        question: Picks the question from the messages the LLM was given: the whole conversation, with the system message
            and the tools' results. Default: the user's last message.
        is_user: Whether a human message is the user's, for programs' messages without a mark.
        include_original: Also put the uncorrected text into the record.
        keep_reasoning: Whether an answer that the aligner has read, changed or not, keeps what its LLM thought, which it has not.
        trace_original: Whether traces and callbacks that are tracers (LangSmith) may see the uncorrected text. With False they
            see what streams see, and no run of the correction.
        name: Name of the middleware; needed where two with the same options are in one agent.
        **options: Options of `Aligner`, such as `model`.

    Raises:
        ConfigurationError: Options that do not fit together.
        QuestionNotFoundError: When the agent runs: there is no text in the messages to take as the question.
        AlignerError: When the agent runs, as the aligner's `on_error`, `on_overflow` and `on_reject` say.
    """

    def __new__(cls, *args: Any, tools: Sequence[str | BaseTool] = (), **options: Any) -> Self:
        """Choose the class: with hooks around tools only if their results are aligned.

        LangChain asks the class for such a hook, and where there is one it looks for unknown tools no more and gives even an
        agent without tools a tools node.
        """
        return super().__new__(with_tools(cls) if tools else cls)

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        align: Align | None = "final",
        tools: Sequence[str | BaseTool] = (),
        question: Picker | None = None,
        is_user: IsUser | None = None,
        include_original: bool = False,
        keep_reasoning: bool = True,
        trace_original: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if align is not None and align not in get_args(Align):
            raise ConfigurationError(f"align is {align!r}; it takes one of {get_args(Align)}, or None.")
        self.aligner = given_aligner(aligner, options)
        self.align = align
        self.tool_names = names_of(tools)
        self.reading = Reading(question, is_user, include_original, keep_reasoning)
        self.trace_original = trace_original
        self._name = name or f"{type(self).__name__}[{', '.join([str(align), *sorted(self.tool_names)])}]"

    # What the LLM says ----------------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Let the LLM answer where nobody hears it, and say what the aligner makes of it."""
        run = callbacks.run_around()
        with callbacks.hidden(traced=self.trace_original):
            response = handler(request)
        result = list(response.result)
        for place, stand_in in self._stand_ins(request, response, run):
            result[place] = stand_in.speak(conversation(request), traced=self.trace_original)
        return dataclasses.replace(response, result=result)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """`wrap_model_call` without blocking the event loop."""
        run = callbacks.run_around()
        with callbacks.hidden(traced=self.trace_original):
            response = await handler(request)
        result = list(response.result)
        for place, stand_in in self._stand_ins(request, response, run):
            result[place] = await stand_in.aspeak(conversation(request), traced=self.trace_original)
        return dataclasses.replace(response, result=result)

    def _stand_ins(
        self, request: ModelRequest[Any], response: ModelResponse[Any], run: callbacks.Run | None
    ) -> Iterator[tuple[int, StandIn]]:
        """For each message of the LLM its place in the response, and what says it."""

        def corrected(task: Task, correction: Correction) -> AIMessage:
            message = cast("AIMessage", task.corrected(correction))
            return without_calls(message) if correction.blocked and goes_on(response, message) else message

        for place, message in enumerate(response.result):
            if isinstance(message, AIMessage):
                task = self._task(request, response, message, run)
                yield place, StandIn(hidden=request.model, aligner=self.aligner, task=task, corrected=corrected)

    def _task(
        self, request: ModelRequest[Any], response: ModelResponse[Any], message: AIMessage, run: callbacks.Run | None
    ) -> Task:
        reason = self._reason(response, message)
        return self.reading.task_of(message, conversation(request), run, reason, traced=self.trace_original)

    def _reason(self, response: ModelResponse[Any], message: AIMessage) -> str | None:
        """Why a message is left alone; None if it is not."""
        if response.structured_response is not None and not message.tool_calls:
            return "structured"  # the provider's: the text is the data
        runs_tools = goes_on(response, message)
        if self.align is None or (runs_tools and self.align == "final"):
            return "tool_calls" if runs_tools else "not_asked_for"
        if not runs_tools and self.align == "thoughts":
            return "not_asked_for"
        return reason_to_leave(message, beside_calls=True)
