"""The answer in a message: which part of it is the answer, and the message with that part corrected, or blocked.

The answer is the text behind the last block that is no text. Blocks before it (earlier text, thoughts, searches with their
results) stay where and as they are, and so does a thought at the answer's beginning (`<think>`): what goes back to the
provider stays valid. Its type, id, name, usage, metadata, tool calls and signatures stay as well; what describes the old
text (annotations, citations, log-probabilities) goes with it. Of a blocked answer nothing stays that may have its words.

What lives elsewhere: values that hold an answer (`messages.py`), and streams (`chunks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata

from aligner_integrations.correction import Correction
from aligner_integrations.thought import split_thought

Answer = str | AIMessage

REASONING = ("reasoning", "reasoning_content", "thinking", "thought")
"""What providers call the blocks and fields in which an LLM thinks."""

_HIDDEN_REASONING = ("redacted_thinking", "reasoning_details")  # without words that could be read
_OFFSETS = ("annotations", "citations", "logprobs")  # of a block or a message: they point at the old text
_SCORES = ("logprobs", "logprobs_result", "avg_logprobs", "citation_metadata")  # they are about the old tokens
# All that metadata may hold beside a blocked answer. A list of what may not would miss the next provider's field.
_WORDLESS = (
    *("model", "model_id", "model_name", "model_provider", "system_fingerprint", "service_tier", "id", "created"),
    *("created_at", "finish_reason", "stop_reason", "token_usage", "usage"),
)


def text_of(value: str | BaseMessage) -> str:
    """Return all text of an answer or a message, without blocks that are not text."""
    return value if isinstance(value, str) else str(value.text)


def answer_in(answer: Answer) -> str:
    """Return the text that is to be corrected: the answer, without the thought before it."""
    return split_thought(_said(answer))[1]


def thought_before(answer: Answer) -> str:
    """Return what is thought in the answer's own text before it (`<think> ... </think>`), as it stands there."""
    return split_thought(_said(answer))[0]


def _said(answer: Answer) -> str:
    content = answer if isinstance(answer, str) else answer.content
    if isinstance(content, str):
        return content
    return "".join(_words(content[place]) for place in places(content))


def places(blocks: Sequence[Any]) -> list[int]:
    """Return where the answer's words are among content blocks."""
    for wanted in (_is_final, is_text):  # what is commentary alone is all there is to correct
        last = next((i for i in reversed(range(len(blocks))) if wanted(blocks[i]) and _words(blocks[i]).strip()), -1)
        first = last
        while first > 0 and wanted(blocks[first - 1]):
            first -= 1
        if last >= 0:
            return [i for i in range(first, last + 1) if _words(blocks[i])]
    return []


def is_text(block: Any) -> bool:
    """Return whether a content block is text."""
    if isinstance(block, dict):
        return block.get("type") == "text" and isinstance(block.get("text"), str)
    return isinstance(block, str)


def _is_final(block: Any) -> bool:
    """Whether it is text, and OpenAI's `phase` does not call it a comment on the way to the answer."""
    if not isinstance(block, dict):
        return isinstance(block, str)
    extras = block.get("extras")
    phase = block.get("phase") or (extras.get("phase") if isinstance(extras, dict) else None)
    return is_text(block) and not str(phase).startswith("commentary")  # in a stream it may have come more than once


def _words(block: Any) -> str:
    return block if isinstance(block, str) else str(block["text"])


# With another text --------------------------------------------------------------------------------------------------


def with_correction(answer: Answer, correction: Correction, record: dict[str, Any]) -> Answer:
    """Return the answer with the corrected text; a message carries the record as `response_metadata["aligner"]`.

    Args:
        answer: What the upstream said.
        correction: That of `answer_in(answer)`.
        record: What is told of the correction.
    """
    if isinstance(answer, str):
        return correction.text if correction.blocked else thought_before(answer) + correction.text
    metadata = told_of(answer.response_metadata, correction)
    if (response := answer.response_metadata.get("id")) != metadata.get("id"):
        record = {**record, "upstream_response_id": response}
    metadata["aligner"] = record
    if correction.blocked:
        kind = AIMessageChunk if isinstance(answer, AIMessageChunk) else AIMessage
        return kind(
            content=correction.text,
            id=answer.id,
            name=answer.name,
            response_metadata=metadata,
            tool_calls=answer.tool_calls,
            usage_metadata=usage_of(answer),
        )
    update: dict[str, Any] = {"response_metadata": metadata}
    if correction.changed:
        update["content"] = _replaced(answer.content, thought_before(answer) + correction.text)
        update["additional_kwargs"] = _without(answer.additional_kwargs, _OFFSETS)
    return answer.model_copy(update=update)


def told_of(metadata: Mapping[str, Any], correction: Correction) -> dict[str, Any]:
    """Return what a provider told of an answer, as far as it is still true of the correction, or may be told beside it."""
    if not correction.changed:
        return dict(metadata)
    told = _without(metadata, _SCORES)
    if isinstance(grounding := told.get("grounding_metadata"), dict):
        told["grounding_metadata"] = _without(grounding, ("grounding_supports",))
    # ChatOpenAI(use_previous_response_id=True) would go on from the uncorrected text at the server.
    if str(told.get("id", "")).startswith("resp_"):
        del told["id"]
    return {key: told[key] for key in told if key in _WORDLESS} if correction.blocked else told


def without_calls(message: AIMessage) -> AIMessage:
    """Return a message that calls no tool."""
    return message.model_copy(update={"tool_calls": []})


def without_reasoning(answer: Answer) -> Answer:
    """Return an answer without what its LLM thought: reasoning blocks and fields, and `<think>` in its text."""
    thought, text = split_thought(_said(answer))
    if isinstance(answer, str):
        return text
    content = _replaced(answer.content, text) if thought else answer.content
    if isinstance(content, list) and (kept := [block for block in content if not _is_reasoning(block)]) != content:
        # OpenAI refuses a message's id without that of the reasoning which led to it.
        content = [_without(block, ("id",)) if isinstance(block, dict) and is_text(block) else block for block in kept]
    fields = _without(answer.additional_kwargs, (*REASONING, *_HIDDEN_REASONING))
    return answer.model_copy(update={"content": content, "additional_kwargs": fields})


def _is_reasoning(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in (*REASONING, *_HIDDEN_REASONING)


def usage_of(message: AIMessage) -> UsageMetadata | None:
    """Return the usage, if it is one: of a message without it a cache makes a cost alone, which no message takes again."""
    usage = message.usage_metadata
    counts = ("input_tokens", "output_tokens", "total_tokens")
    return usage if usage is not None and all(name in usage for name in counts) else None


def _replaced(content: str | list[Any], text: str) -> str | list[Any]:
    """Put a text in the place of the answer: into its first block, and its further ones go."""
    if isinstance(content, str):
        return text
    first, *others = places(content)
    block = content[first]
    new = text if isinstance(block, str) else {**without_offsets(block), "text": text}
    return [new if i == first else block for i, block in enumerate(content) if i not in others]


def without_offsets(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block of text without what points at its words."""
    return _without(block, _OFFSETS)


def _without(mapping: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
