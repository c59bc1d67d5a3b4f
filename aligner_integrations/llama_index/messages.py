"""Small things that the chat engine, the LLM and the agents do to chat messages and tools' outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ContentBlock, MessageRole, TextBlock
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse


def with_text(message: ChatMessage, text: str) -> ChatMessage:
    """Return a copy with another text; blocks that are no text (thoughts, images, citations) stay where they are."""
    blocks: list[ContentBlock] = []
    written = False
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            blocks.append(block)
        elif not written:
            blocks.append(TextBlock(text=text))
            written = True
    if not written:
        blocks.append(TextBlock(text=text))
    return message.model_copy(update={"blocks": blocks})


def last_question(messages: Sequence[ChatMessage]) -> str:
    """Return the user's last message; empty if there is none."""
    return next((message.content or "" for message in reversed(messages) if message.role == MessageRole.USER), "")


def calls_tools(message: ChatMessage) -> bool:
    """Whether a message calls tools, in either of the ways that LlamaIndex's LLMs say it."""
    blocks = any(getattr(block, "block_type", None) == "tool_call" for block in message.blocks)
    return blocks or bool(message.additional_kwargs.get("tool_calls"))


def response_with_text(raw: Any, text: str) -> Any:
    """Return what a tool returned with another text: LlamaIndex's responses keep their sources, anything else is the text."""
    if isinstance(raw, Response):
        return dataclasses.replace(raw, response=text)
    if isinstance(raw, StreamingResponse | AsyncStreamingResponse):
        return Response(text, raw.source_nodes, raw.metadata)
    return text
