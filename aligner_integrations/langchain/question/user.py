"""Whose words are the question: those of the user's last message.

Programs write human messages too: summaries of what was said, reminders, results of agents in the background. Those are
passed over. The user's own message is not, even if it has no words, such as an image: its answer is to it, and not to what was
asked before.

What lives elsewhere: where messages are found (`recorder.py`, and `messages.py` one folder up).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, FunctionMessage, HumanMessage, ToolMessage

from aligner_integrations.langchain.answer import text_of

IsUser = Callable[[BaseMessage], bool]
"""(human message) -> whether the user wrote it. Asked only of messages without a program's mark."""

# By what programs mark the human messages that they write: LangChain (`add_notification_metadata`), and user interfaces.
_MARKS = ("lc_source", "hide_from_ui")
# The names under which known middleware writes without a mark.
_PROGRAMS = (
    "context_compaction_summary",
    "loop_warning",
    "progress_hint",
    "summary",
    "todo_completion_reminder",
    "todo_reminder",
)


def last_question(messages: Sequence[BaseMessage], is_user: IsUser | None = None) -> str | None:
    """Return the words of the user's last message.

    Args:
        messages: What an LLM was given.
        is_user: Whether a human message without a program's mark is the user's. Default: it is.

    Returns:
        The words; "" if the message has none, or if programs wrote all human messages. Where there is no human message, the
        last words of a prompt that is a system message alone; None if there are none.
    """
    for message in reversed(messages):
        if by_user(message, is_user):
            return text_of(message) if text_of(message).strip() else ""
    if any(map(_is_human, messages)):
        return ""
    prompts = [m for m in messages if not isinstance(m, AIMessage | ToolMessage | FunctionMessage)]
    return next((text_of(message) for message in reversed(prompts) if text_of(message).strip()), None)


def by_user(message: BaseMessage, is_user: IsUser | None = None) -> bool:
    """Return whether the user wrote a message."""
    marked = any(message.additional_kwargs.get(mark) for mark in _MARKS) or message.name in _PROGRAMS
    return _is_human(message) and not marked and (is_user is None or is_user(message))


def _is_human(message: BaseMessage) -> bool:
    if isinstance(message, ChatMessage):
        return message.role in ("user", "human")
    return isinstance(message, HumanMessage)
