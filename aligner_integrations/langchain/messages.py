"""Answers inside LangChain's values: which part is the answer, how its text is replaced, and how it is streamed.

Only the text of an answer changes. Its type, id, name, usage, metadata, tool calls and blocks that are not text stay;
what describes the old text (annotations, citations, log-probabilities) goes with it.
What lives elsewhere: finding a question that is not part of the value (`upstream.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables.utils import AddableDict
from pydantic import BaseModel

from aligner_integrations.correction import Correction
from aligner_integrations.errors import InvalidTextError

_QUESTION_KEYS = ("question", "input", "query")
_OFFSETS = ("annotations", "citations")  # they point at characters of the old text
_FORMS = (
    "a string, an AIMessage, a list of messages that ends with an AIMessage, or a dict with 'answer' "
    "(best with 'question' beside it) or 'messages'"
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
    """

    answer: Answer
    question: str | Sequence[BaseMessage] | None
    put: Callable[[Answer], Any]
    key: str | None = None
    whole: bool = False


def read(value: Any) -> Incoming:
    """Find the answer in a value, and the question if it is there too.

    Raises:
        InvalidTextError: A value in which no answer can be seen.
    """
    if isinstance(value, str | AIMessage):
        return Incoming(value, None, lambda answer: answer)
    if isinstance(value, list):
        messages, answer = _split(value)
        return Incoming(answer, messages, lambda new: [*messages, new], whole=True)
    if isinstance(value, dict) and "answer" in value:
        answer = value["answer"]
        if not isinstance(answer, str | AIMessage):
            raise InvalidTextError(f"'answer' must be a string or an AIMessage, got {_kind(answer)}.")
        return Incoming(answer, _beside(value), lambda new: _with(value, "answer", new), key="answer")
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        messages, answer = _split(value["messages"])
        return Incoming(answer, messages, lambda new: _with(value, "messages", [*messages, new]), whole=True)
    raise InvalidTextError(f"An aligner takes {_FORMS}; got {_kind(value)}.{_hint(value)}")


def _split(messages: list[Any]) -> tuple[list[BaseMessage], AIMessage]:
    if not messages or not all(isinstance(message, BaseMessage) for message in messages):
        kinds = ", ".join(sorted({_kind(message) for message in messages})) or "nothing"
        raise InvalidTextError(
            f"A list must hold messages and end with the AIMessage to correct; this one holds {kinds}."
        )
    *before, last = messages
    if not isinstance(last, AIMessage):
        raise InvalidTextError(
            f"A list of messages must end with the AIMessage to correct; this one ends with {_kind(last)}."
        )
    return before, last


def _beside(value: dict[str, Any]) -> str | Sequence[BaseMessage] | None:
    """The question in a dict with an answer."""
    key = next((key for key in _QUESTION_KEYS if key in value), None)
    if key is None:
        return None
    question = value[key]
    if isinstance(question, str):
        return question
    if (messages := as_messages(question)) is None:
        raise InvalidTextError(f"{key!r} must be a string, a prompt or messages, got {_kind(question)}.")
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


def reason_to_leave(answer: Answer) -> str | None:
    """Return why an answer is left alone whatever the aligner thinks; None if it can be aligned."""
    if isinstance(answer, AIMessage):
        raw = answer.additional_kwargs
        if answer.tool_calls or answer.invalid_tool_calls or raw.get("tool_calls") or raw.get("function_call"):
            return "tool_calls"
    return None if text_of(answer).strip() else "no_text"


# The corrected answer -----------------------------------------------------------------------------------------------


def with_correction(answer: Answer, correction: Correction, record: dict[str, Any]) -> Answer:
    """Return the answer with the corrected text; a message carries the record as `response_metadata["aligner"]`."""
    if isinstance(answer, str):
        return correction.text
    metadata = dict(answer.response_metadata)
    update: dict[str, Any] = {"response_metadata": metadata}
    if correction.changed:
        update["content"] = _replace(answer.content, correction.text)
        metadata.pop("logprobs", None)
        # ChatOpenAI(use_previous_response_id=True) would go on from the uncorrected text at the server.
        if str(metadata.get("id", "")).startswith("resp_"):
            record = {**record, "upstream_response_id": metadata.pop("id")}
    metadata["aligner"] = record
    return answer.model_copy(update=update)


def _replace(content: str | list[Any], text: str) -> str | list[Any]:
    """Put the text into the first text block, drop further text blocks, keep all others."""
    if isinstance(content, str):
        return text
    blocks: list[Any] = []
    placed = False
    for block in content:
        if not _is_text(block):
            blocks.append(block)
        elif not placed:
            placed = True
            blocks.append(text if isinstance(block, str) else {**_without_offsets(block), "text": text})
    return blocks


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (block.get("type") == "text" and isinstance(block.get("text"), str))


def _without_offsets(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key not in _OFFSETS}


# Streams ------------------------------------------------------------------------------------------------------------


def join(chunks: Sequence[Any]) -> Any:
    """Put the chunks of one value together; where that is impossible the last one counts, as in LangChain."""
    first = chunks[0]
    if len(chunks) == 1:
        return first
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks)
    if all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return first + chunks[1:]  # at once: adding one after the other takes quadratic time
    if all(isinstance(chunk, AddableDict) for chunk in chunks):
        parts: dict[str, list[Any]] = {}
        for chunk in chunks:
            for key, value in chunk.items():
                parts.setdefault(key, []).append(value)
        return AddableDict({key: join([v for v in values if v is not None] or [None]) for key, values in parts.items()})
    if any(isinstance(chunk, BaseMessage | dict) for chunk in chunks):
        return chunks[-1]  # adding messages gives a prompt template
    try:
        whole = first
        for chunk in chunks[1:]:
            whole = whole + chunk
    except TypeError:
        return chunks[-1]
    return whole


class ChunkWriter:
    """Gives a value out piece by piece: text as it comes, everything else of the answer with the last chunk.

    Adding up the chunks gives the corrected value. Lives for one stream.

    Attributes:
        live: Whether text can be given out before the aligner is done. Not if the text is spread over several blocks:
            whether they stay is known at the end.
    """

    def __init__(self, value: Any, incoming: Incoming) -> None:
        self._value = value
        self._incoming = incoming
        answer = incoming.answer
        self._blocks = answer.content if isinstance(answer, AIMessage) and isinstance(answer.content, list) else None
        texts = [place for place, block in enumerate(self._blocks or ()) if _is_text(block)]
        self._place = texts[0] if texts else 0
        single = len(texts) == 1 and self._blocks is not None and isinstance(self._blocks[self._place], dict)
        self.live = not incoming.whole and (self._blocks is None or single)
        self._begun = False

    def piece(self, text: str) -> list[Any]:
        """Return the chunks for a piece of text."""
        answer = self._incoming.answer
        if isinstance(answer, str):
            return self._out(text)
        content: str | list[Any] = text
        if self._blocks is not None:
            content = [{"type": "text", "text": text, "index": self._index}]
            if not self._begun:
                content = [*self._blocks[: self._place], *content]
        return self._out(AIMessageChunk(content=content, id=answer.id, name=answer.name))

    def last(self, corrected: Answer) -> list[Any]:
        """Return the chunks that complete the value, given the corrected answer."""
        if self._incoming.whole:
            return [self._incoming.put(corrected)]
        if isinstance(corrected, str):
            return [] if self._begun else self._out(corrected)
        content = corrected.content
        if not self._begun:
            return self._out(_as_chunk(corrected, content))
        if isinstance(content, list):
            block = content[self._place]
            rest = {"text": "", "index": self._index}
            content = [{**block, **rest} if isinstance(block, dict) else rest, *content[self._place + 1 :]]
        else:
            content = ""
        return self._out(_as_chunk(corrected, content))

    @property
    def _index(self) -> int:
        """The index by which LangChain merges the pieces of the text block."""
        blocks = [block for block in self._blocks or () if isinstance(block, dict)]
        own = self._blocks[self._place] if self._blocks else None
        if isinstance(own, dict) and isinstance(own.get("index"), int):
            return int(own["index"])
        return max((block["index"] for block in blocks if isinstance(block.get("index"), int)), default=-1) + 1

    def _out(self, answer: Answer) -> list[Any]:
        begun, self._begun = self._begun, True
        key = self._incoming.key
        if key is None:
            return [answer]
        others = {name: value for name, value in self._value.items() if name != key}
        return [*([AddableDict(others)] if others and not begun else []), AddableDict({key: answer})]


def _as_chunk(message: AIMessage, content: str | list[Any]) -> AIMessageChunk:
    if isinstance(message, AIMessageChunk):
        return message.model_copy(update={"content": content, "chunk_position": "last"})
    return AIMessageChunk(
        content=content,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        id=message.id,
        name=message.name,
        usage_metadata=message.usage_metadata,
        tool_calls=message.tool_calls,
        invalid_tool_calls=message.invalid_tool_calls,
        chunk_position="last",
    )
