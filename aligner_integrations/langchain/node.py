"""`AlignerNode`: a node of a LangGraph graph that corrects the answer before it in the state.

    builder.add_node("align", AlignerNode(aligner))      # with edges: the LLM's node -> "align" -> END

A node comes late: the LLM's answer is already in the state, in a checkpoint if there is one, and in every stream of the
LLM's node, and in `stream_mode="messages"` the correction does not even follow, because that mode sends a message's id
once. Where people read the stream, put the aligner around the LLM instead, in the node that has it:
`AlignedChatModel(llm=llm)`; with `create_agent`, `AlignerMiddleware`. This node is for graphs whose LLM call cannot be
reached, and for state that nobody reads before it.

What lives elsewhere: the answer on its way (`tasks.py`), and what is corrected and what is not (`aligner.py`).
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError, InvalidTextError
from aligner_integrations.langchain.callbacks import Run
from aligner_integrations.langchain.messages import reason_to_leave
from aligner_integrations.langchain.question.user import IsUser
from aligner_integrations.langchain.tasks import Picker, Reading, Task, acorrect, correct, given_aligner


class AlignerNode(Runnable[Any, dict[str, Any]]):
    """Corrects the last message of the state, an AIMessage, and returns it as the update, under the id it had.

    Messages with tool calls, refusals, messages without text, and answers to a message of the user without words are left
    alone, so the node can stand in an agent's loop.
    The record is in `response_metadata["aligner"]`, as everywhere.

    Safe to share between graphs, threads and tasks.

    Args:
        aligner: The aligner. Default: `Aligner(**options)`.
        messages_key: Where the messages are in the state, which is a dict or an object with such an attribute. Its reducer
            must replace messages by id, as `add_messages` of `MessagesState` does.
        question: Picks the question from the messages before the answer. Default: the user's last message.
        is_user: Whether a human message is the user's, for programs' messages without a mark.
        include_original: Also put the uncorrected text into the record.
        keep_reasoning: Whether an answer that the aligner has read, changed or not, keeps what its LLM thought, which it has not.
        name: Name of the node and of its runs.
        **options: Options of `Aligner`, such as `model`.

    Raises:
        ConfigurationError: Options that do not fit together; or, when the node runs, a message without an id.
        InputError: When the node runs: the last message is not an LLM's, or there is no question before it.
        AlignerError: When the node runs, as the aligner's `on_error`, `on_overflow` and `on_reject` say.
    """

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        messages_key: str = "messages",
        question: Picker | None = None,
        is_user: IsUser | None = None,
        include_original: bool = False,
        keep_reasoning: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        self.aligner = given_aligner(aligner, options)
        self.messages_key = messages_key
        self.reading = Reading(question, is_user, include_original, keep_reasoning)
        self.name = name

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Return the update for a state.

        Args:
            input: The state.
            config: LangChain's configuration of this call.
            **kwargs: The template's extra fields.
        """

        def run(state: Any, run_manager: CallbackManagerForChainRun) -> dict[str, Any]:
            task = self._task(state, run_manager)
            return self._update(task, correct(self.aligner, task, kwargs))

        return self._call_with_config(run, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """`invoke` without blocking the event loop."""

        async def run(state: Any, run_manager: AsyncCallbackManagerForChainRun) -> dict[str, Any]:
            task = self._task(state, run_manager)
            return self._update(task, await acorrect(self.aligner, task, kwargs))

        return await self._acall_with_config(run, input, config)

    def _task(self, state: Any, run: Run) -> Task:
        *before, message = self._messages(state)
        if not isinstance(message, AIMessage):
            raise InvalidTextError(
                f"The last message of the state is a {type(message).__name__}, and only what an LLM said can be "
                "corrected: put AlignerNode behind the node of the LLM."
            )
        if not message.id:
            raise ConfigurationError(
                f"The message to correct has no id, so its correction would come after it instead of in its place. Give "
                f"{self.messages_key!r} the reducer add_messages."
            )
        return self.reading.task_of(message, before, run, reason_to_leave(message))

    def _messages(self, state: Any) -> list[BaseMessage]:
        key = self.messages_key
        messages = state.get(key) if isinstance(state, dict) else getattr(state, key, None)
        if not isinstance(messages, list) or not messages:
            raise InvalidTextError(f"The state has no messages under {key!r}; name another place with messages_key=.")
        return messages

    def _update(self, task: Task, correction: Correction) -> dict[str, Any]:
        return {self.messages_key: [task.corrected(correction)]}
