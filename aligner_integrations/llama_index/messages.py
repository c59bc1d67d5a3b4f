"""Small things that the chat engine, the LLM and the agents do to chat messages."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, ContentBlock, MessageRole, TextBlock


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
