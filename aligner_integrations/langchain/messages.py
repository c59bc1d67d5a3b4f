"""Answers inside LangChain's values: which part is the answer, and how its text is replaced.

Only the text of an answer changes. Its type, id, name, usage, metadata, tool calls and blocks that are not text stay;
what describes the old text (annotations, citations, log-probabilities) goes with it.

What lives elsewhere: finding a question that is not part of the value (`question/`), and streams (`chunks.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.prompt_values import PromptValue
from pydantic import BaseModel

from aligner_integrations.correction import Correction
from aligner_integrations.errors import UnsupportedValueError

_QUESTION_KEYS = ("question", "input", "query")
_ANSWER_KEYS = ("answer", "output", "result")  # of retrieval chains, agents, and older retrieval chains
_OFFSETS = ("annotations", "citations")  # they point at characters of the old text
_SCORES = ("logprobs", "logprobs_result", "avg_logprobs", "citation_metadata")  # they are about the old tokens
_FORMS = (
    "a string, an AIMessage (or its {'role', 'content'} form, or its content blocks), a list of messages that ends with "
    "an AIMessage, or a dict with 'answer', 'output' or 'result' (best with 'question' or 'input' beside it) or 'messages'"
)

Answer = str | AIMessage


def text_of(value: str | BaseMessage) -> str:
    """Return the text of an answer or a message, without blocks that are not text."""
    return value if isinstance(value, str) else str(value.text)


def last_question(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the last human message; without any, of the last message an LLM did not write."""
    humans = [message for message in messages if isinstance(message, HumanMessage)]
    others = [message for message in messages if not isinstance(message, AIMessage)]
    texts = (text_of(message) for message in (*reversed(humans), *reversed(others)))
    return next((text for text in texts if text.strip()), "")


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
        return Incoming(AIMessage(value), None, lambda answer: _content(answer), whole=True)
    if isinstance(value, dict | tuple) and _names_a_role(value):
        message = _converted([value])[0]
        if isinstance(message, AIMessage):
            if isinstance(value, tuple):
                return Incoming(message, None, lambda answer: (value[0], _content(answer)), whole=True)
            return Incoming(message, None, lambda answer: {**value, "content": _content(answer)}, whole=True)
    return None


def _is_block(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("type"), str) and "role" not in item


def _content(answer: Answer) -> str | list[Any]:
    return answer if isinstance(answer, str) else answer.content


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
    return None if text_of(answer).strip() else "no_text"


def _has_calls(answer: AIMessage) -> bool:
    raw = answer.additional_kwargs
    return bool(answer.tool_calls or answer.invalid_tool_calls or raw.get("tool_calls") or raw.get("function_call"))


def _has_refusal(answer: AIMessage) -> bool:
    blocks = answer.content if isinstance(answer.content, list) else ()
    return any(isinstance(block, dict) and block.get("type") == "refusal" for block in blocks)


# The corrected answer -----------------------------------------------------------------------------------------------


def with_correction(answer: Answer, correction: Correction, record: dict[str, Any]) -> Answer:
    """Return the answer with the corrected text; a message carries the record as `response_metadata["aligner"]`."""
    if isinstance(answer, str):
        return correction.text
    metadata = dict(answer.response_metadata)
    update: dict[str, Any] = {"response_metadata": metadata}
    if correction.changed:
        update["content"] = _replace(answer.content, correction.text)
        for key in _SCORES:
            metadata.pop(key, None)
        if isinstance(grounding := metadata.get("grounding_metadata"), dict):
            metadata["grounding_metadata"] = {k: v for k, v in grounding.items() if k != "grounding_supports"}
        # ChatOpenAI(use_previous_response_id=True) would go on from the uncorrected text at the server.
        if str(metadata.get("id", "")).startswith("resp_"):
            record = {**record, "upstream_response_id": metadata.pop("id")}
    metadata["aligner"] = record
    return answer.model_copy(update=update)


def text_alone(message: AIMessage) -> AIMessage:
    """Return the message with its text and nothing else of its content: no tool call, no reasoning that led to one."""
    return AIMessage(
        message.text,
        id=message.id,
        name=message.name,
        response_metadata=message.response_metadata,
        usage_metadata=usage_of(message),
    )


def usage_of(message: AIMessage) -> UsageMetadata | None:
    """Return the usage, if it is one: of a message without it a cache makes a cost alone, which no message takes again."""
    usage = message.usage_metadata
    counts = ("input_tokens", "output_tokens", "total_tokens")
    return usage if usage is not None and all(name in usage for name in counts) else None


def _replace(content: str | list[Any], text: str) -> str | list[Any]:
    """Put the text into the first text block, drop further text blocks, keep all others."""
    if isinstance(content, str):
        return text
    blocks: list[Any] = []
    placed = False
    for block in content:
        if not is_text(block):
            blocks.append(block)
        elif not placed:
            placed = True
            blocks.append(text if isinstance(block, str) else {**_without_offsets(block), "text": text})
    return blocks


def is_text(block: Any) -> bool:
    """Return whether a content block is text."""
    if isinstance(block, dict):
        return block.get("type") == "text" and isinstance(block.get("text"), str)
    return isinstance(block, str)


def _without_offsets(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key not in _OFFSETS}
