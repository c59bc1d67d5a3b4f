"""Answers inside LangChain's values: where in a value the answer is, what stands beside it, and why it may be left alone.

What lives elsewhere: which part of a message is the answer, and the message with another text (`answer.py`); whose words
are the question (`question/user.py`); finding a question that is not part of the value (`question/`); streams
(`chunks.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel

from aligner_integrations.errors import UnsupportedValueError
from aligner_integrations.langchain.answer import Answer, answer_in, is_text, text_of

_QUESTION_KEYS = ("question", "input", "query")
_ANSWER_KEYS = ("answer", "output", "result")  # of retrieval chains, agents, and older retrieval chains
_FIELDS = (
    "content",
    "name",
    "id",
    "additional_kwargs",
    "response_metadata",
)  # of a message in its role and content form
_FORMS = (
    "a string, an AIMessage (or its {'role', 'content'} form, or its content blocks), a list of messages that ends with "
    "an AIMessage, or a dict with 'answer', 'output' or 'result' (best with 'question' or 'input' beside it) or 'messages'"
)


def as_messages(value: Any) -> list[BaseMessage] | None:
    """Return what a chain or an LLM was given as messages; None if it is not clearly a question."""
    if isinstance(value, str):
        return [HumanMessage(value)] if value.strip() else None
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, BaseMessage):
        return None if isinstance(value, AIMessage) else [value]
    if isinstance(value, dict):
        for key in (*_QUESTION_KEYS, "messages", "prompt"):
            if (messages := as_messages(value.get(key))) is not None:
                return messages
        only = next(iter(value.values())) if len(value) == 1 else None
        return as_messages(only) if isinstance(only, str) else None
    # A list of strings may be anything; messages say who speaks.
    if isinstance(value, list) and value and all(map(_names_a_role, value)):
        try:
            return convert_to_messages(value)
        except (NotImplementedError, TypeError, ValueError):  # an unknown role: not messages after all
            return None
    return None


def _names_a_role(item: Any) -> bool:
    if isinstance(item, tuple):
        return len(item) == 2 and all(isinstance(part, str) for part in item)
    return isinstance(item, BaseMessage) or (isinstance(item, dict) and "role" in item and "content" in item)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A value that reached the aligner.

    Attributes:
        answer: The part to correct.
        question: What stands beside it: the question, or messages that hold it; None if nothing does.
        put: Returns a copy of the value with another answer in place.
        key: The key of the answer in a dict whose parts can be streamed.
        whole: Whether the value can only be given out as a whole, because pieces of it would not add up.
        data: Whether the answer is data for a program.
    """

    answer: Answer
    question: str | Sequence[BaseMessage] | None
    put: Callable[[Answer], Any]
    key: str | None = None
    whole: bool = False
    data: bool = False


def read(value: Any, name: str | None = None) -> Incoming:
    """Find the answer in a value, and the question if it is there too.

    Args:
        value: What reached the aligner.
        name: A key that holds the question, if the caller knows one.

    Raises:
        UnsupportedValueError: A value in which no answer can be seen.
    """
    if (alone := _alone(value)) is not None:
        return alone
    if isinstance(value, list):
        before, last = _split(value)
        return Incoming(last.answer, before, lambda new: [*value[:-1], last.put(new)], whole=True)
    if isinstance(value, dict):
        if (key := next((key for key in _ANSWER_KEYS if key in value), None)) is not None:
            if (inner := _alone(value[key])) is None:
                raise UnsupportedValueError(f"{key!r} must be a string or an AIMessage, got {_kind(value[key])}.")
            question = _beside(value, name)
            return Incoming(inner.answer, question, lambda new: _with(value, key, inner.put(new)), key, inner.whole)
        if isinstance(messages := value.get("messages"), list):
            before, last = _split(messages)
            put = last.put
            return Incoming(
                last.answer,
                before,
                lambda new: _with(value, "messages", [*messages[:-1], put(new)]),
                whole=True,
            )
        if isinstance(raw := value.get("raw"), AIMessage) and "parsed" in value:  # with_structured_output(include_raw)
            return Incoming(raw, None, lambda new: _with(value, "raw", new), whole=True, data=True)
    raise UnsupportedValueError(f"An aligner takes {_FORMS}; got {_kind(value)}.{_hint(value)}")


def _alone(value: Any) -> Incoming | None:
    """An answer that comes by itself; None if the value is something else."""
    if isinstance(value, str | AIMessage):
        return Incoming(value, None, lambda answer: answer)
    if isinstance(value, list) and any(map(is_text, value)) and all(map(_is_block, value)):
        return Incoming(AIMessage(value), None, lambda answer: _blocks(_content(answer)), whole=True)
    if isinstance(value, dict | tuple) and _names_a_role(value):
        message = _converted([value])[0]
        if isinstance(message, AIMessage):
            if isinstance(value, tuple):
                return Incoming(message, None, lambda answer: (value[0], _content(answer)), whole=True)
            return Incoming(message, None, lambda answer: _as_role(value, answer), whole=True)
    return None


def _is_block(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("type"), str) and "role" not in item


def _content(answer: Answer) -> str | list[Any]:
    return answer if isinstance(answer, str) else answer.content


def _blocks(content: str | list[Any]) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_role(value: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """A message in its role and content form, with what is left of its further fields."""
    message = AIMessage(answer) if isinstance(answer, str) else answer
    fields = {**{key: getattr(message, key) for key in _FIELDS if key in value}, **message.additional_kwargs}
    return {key: fields.get(key, item) for key, item in value.items() if key in ("role", "tool_calls") or key in fields}


def _split(items: list[Any]) -> tuple[list[BaseMessage], Incoming]:
    """The messages before the last one, and the last one as an answer."""
    if not items or not all(map(_names_a_role, items)):
        kinds = ", ".join(sorted({_kind(item) for item in items})) or "nothing"
        raise UnsupportedValueError(
            f"A list must hold messages and end with the AIMessage to correct; this one holds {kinds}."
        )
    before, last = _converted(items[:-1]), _alone(items[-1])
    if last is None:
        raise UnsupportedValueError(
            f"A list of messages must end with the AIMessage to correct; this one ends with {_kind(items[-1])}."
        )
    return before, last


def _converted(items: list[Any]) -> list[BaseMessage]:
    try:
        return convert_to_messages(items)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedValueError(f"These are no messages: {error}") from error


def _beside(value: dict[str, Any], name: str | None) -> str | Sequence[BaseMessage] | None:
    """The question in a dict with an answer."""
    key = next((key for key in (name, *_QUESTION_KEYS) if key in value), None)
    if key is None:
        return None
    question = value[key]
    if isinstance(question, str):
        return question
    if (messages := as_messages(question)) is None:
        raise UnsupportedValueError(f"{key!r} must be a string, a prompt or messages, got {_kind(question)}.")
    return messages


def _with(value: dict[str, Any], key: str, item: Any) -> dict[str, Any]:
    changed = copy.copy(value)
    changed[key] = item
    return changed


def _kind(value: Any) -> str:
    return type(value).__name__


def _hint(value: Any) -> str:
    if isinstance(value, PromptValue):
        return " A prompt is what the LLM is asked; the aligner belongs behind the LLM."
    if isinstance(value, BaseMessage):
        return " Only what an LLM said can be corrected."
    if isinstance(value, BaseModel):
        return " Structured output is data, not prose: put the aligner elsewhere, or give it one text field of it."
    return ""


def text_in(chunk: Any) -> str:
    """Return the answer's text in a chunk of a value; "" if there is none in it."""
    try:
        return text_of(read(chunk).answer)
    except UnsupportedValueError:
        return ""


def reason_to_leave(answer: Answer, *, beside_calls: bool = False) -> str | None:
    """Return why an answer is left alone whatever the aligner thinks; None if it can be aligned.

    Args:
        answer: The answer.
        beside_calls: Whether text beside tool calls can be aligned.
    """
    if isinstance(answer, AIMessage):
        raw = answer.additional_kwargs
        if not beside_calls and _has_calls(answer):
            return "tool_calls"
        if raw.get("refusal") or answer.response_metadata.get("stop_reason") == "refusal" or _has_refusal(answer):
            return "refusal"
        if raw.get("parsed") is not None:
            return "structured"
    return None if answer_in(answer).strip() else "no_text"


def _has_calls(answer: AIMessage) -> bool:
    raw = answer.additional_kwargs
    return bool(answer.tool_calls or answer.invalid_tool_calls or raw.get("tool_calls") or raw.get("function_call"))


def _has_refusal(answer: AIMessage) -> bool:
    blocks = answer.content if isinstance(answer.content, list) else ()
    return any(isinstance(block, dict) and block.get("type") == "refusal" for block in blocks)
