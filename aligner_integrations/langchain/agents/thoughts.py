"""An agent's thought: what it says or reasons beside a tool call, and how an aligner is asked about it.

The form is that of Thought-Aligner (arXiv 2505.11063): the instruction, then the thoughts and observations since, each
in its tag, are the question, and the thought is the answer, for the template `thought`. Whatever of it others wrote
cannot pass for the template's own marks, and is cut to a bound.

What lives elsewhere: what follows from a correction (`thought_middleware.py`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from aligner_integrations.langchain.answer import REASONING, text_of
from aligner_integrations.langchain.question.user import IsUser, by_user

MAX_INSTRUCTION = 12_000  # characters, like the others
MAX_THOUGHT = 8_000
MAX_STEP = 3_000  # of one earlier thought or observation

_PARTS = (*REASONING, "summary", "text")  # where providers put the words
_DEPTH = 4

_THINK = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_THOUGHT = re.compile(r"^[ \t]*Thought[ \t]*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_ACTION = re.compile(
    r"^[ \t]*(?:Action(?: Input)?|Observation|Final Answer)[ \t]*:.*?(?=^[ \t]*Thought[ \t]*:|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)

_TAG = re.compile(r"<(?=[\s/]*(?:thought|observation))", re.IGNORECASE)
_ROLE = re.compile(r"(BEGINNING OF CONVERSATION|USER|ASSISTANT)\s*:")
_BAR = re.compile(r"(?<!\S)\|(?!\S)")


# In a message -------------------------------------------------------------------------------------------------------


def thought_of(message: AIMessage) -> str:
    """Return the thought in a message: reasoning fields and blocks, `<think>`, ReAct's "Thought:", or else its text."""
    blocks = message.content if isinstance(message.content, list) else []
    fields = [{key: value} for key, value in message.additional_kwargs.items() if key in REASONING]
    reasoning = [block for block in blocks if isinstance(block, dict) and block.get("type") in REASONING]
    parts = [text.strip() for item in (*fields, *reasoning) for text in _words(item)]
    parts.append(_in_text(text_of(message)))
    return "\n".join(filter(None, parts))


def _words(item: Any, depth: int = 0) -> Iterator[str]:
    """The texts of a reasoning field; each provider nests them in its own way."""
    if isinstance(item, str):
        yield item
    elif depth < _DEPTH:
        parts = (
            item
            if isinstance(item, list)
            else [item[key] for key in _PARTS if key in item]
            if isinstance(item, dict)
            else []
        )
        for part in parts:
            yield from _words(part, depth + 1)


def _in_text(text: str) -> str:
    text = _THINK.sub("", text)
    if _THOUGHT.search(text):
        text = _THOUGHT.sub("", _ACTION.sub("", text))
    return text.strip()


def with_thought(message: AIMessage, thought: str) -> AIMessage:
    """Return a message that has no thought with one."""
    if isinstance(message.content, list):
        return message.model_copy(update={"content": [{"type": "text", "text": thought}, *message.content]})
    return message.model_copy(update={"content": thought})


# For the aligner ----------------------------------------------------------------------------------------------------


def instruction_with_history(
    instruction: str, messages: Sequence[BaseMessage], steps: int, is_user: IsUser | None = None
) -> str:
    """Return what an aligner of thoughts is given as the question.

    Args:
        instruction: What the user wants.
        messages: The conversation.
        steps: How many thoughts and observations since the user's last message are given with it, latest first to stay.
        is_user: Whether a human message is the user's; see `IsUser`.
    """
    since = itertools.takewhile(lambda message: not by_user(message, is_user), reversed(messages))
    latest = itertools.islice(filter(None, map(_step, since)), steps)
    return "\n".join([_data(instruction, MAX_INSTRUCTION), *reversed(list(latest))])


def _step(message: BaseMessage) -> str | None:
    if isinstance(message, AIMessage) and (thought := thought_of(message)):
        return f"<thought>{_data(thought)}</thought>"
    if isinstance(message, ToolMessage):
        return f"<observation>{_data(text_of(message))}</observation>"
    return None


def as_answer(thought: str) -> str:
    """Return a thought as an aligner is given it."""
    return _plain(thought)


def _data(text: str, limit: int = MAX_STEP) -> str:
    """A text of others as part of the question: without the bar, because the first one is the template's."""
    return _BAR.sub("/", _plain(_cut(text, limit)))


def _plain(text: str) -> str:
    """A text without what the template uses as marks: the tags of the history, and the roles."""
    return _ROLE.sub(r"\1 -", _TAG.sub("&lt;", text))


def _cut(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} [...] {text[-half:]}"
