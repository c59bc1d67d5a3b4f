"""`TurnMemory`: a chat's memory as one turn sees it, so that the upstream's answer never enters the chat's own.

What lives elsewhere: when a turn is remembered, and with which text (`chat_engine.py`).
"""

from __future__ import annotations

import logging
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.bridge.pydantic import Field
from llama_index.core.memory import BaseMemory

from aligner_integrations.llama_index.messages import with_text

logger = logging.getLogger(__name__)


class TurnMemory(BaseMemory):
    """Reads a chat's memory, and keeps to itself what is put into it. Lives for one turn.

    Attributes:
        memory: The chat's memory.
        turn: What was put during this turn.
    """

    memory: BaseMemory
    turn: list[ChatMessage] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises this class."""
        return "TurnMemory"

    @classmethod
    def from_defaults(cls, **kwargs: Any) -> TurnMemory:
        """Make one."""
        return cls(**kwargs)

    def __getattr__(self, name: str) -> Any:
        """Hand on what else an engine asks of a memory, such as its tokenizer."""
        return getattr(self.__dict__["memory"], name) if "memory" in self.__dict__ else super().__getattr__(name)  # type: ignore[misc]

    # What an engine does ----------------------------------------------------------------------------------------------

    def get(self, input: str | None = None, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002 - LlamaIndex's name
        """Return what the LLM is to see of the chat, and the turn."""
        return [*self.memory.get(input=input, **self._with_the_turn(kwargs)), *self.turn]

    async def aget(self, input: str | None = None, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002 - as above
        """`get` without blocking the event loop."""
        return [*await self.memory.aget(input=input, **self._with_the_turn(kwargs)), *self.turn]

    def _with_the_turn(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Count the turn's tokens among those that leave no room for older messages, where an engine counts at all."""
        if not self.turn or "initial_token_count" not in kwargs or not hasattr(self.memory, "tokenizer_fn"):
            return kwargs
        text = " ".join(message.content or "" for message in self.turn)
        count = kwargs["initial_token_count"] + len(self.memory.tokenizer_fn(text))
        limit = getattr(self.memory, "token_limit", count)  # a memory refuses more than its limit
        return {**kwargs, "initial_token_count": max(kwargs["initial_token_count"], min(count, limit))}

    def get_all(self) -> list[ChatMessage]:
        """Return the chat's messages and the turn's."""
        return [*self.memory.get_all(), *self.turn]

    async def aget_all(self) -> list[ChatMessage]:
        """`get_all` without blocking the event loop."""
        return [*await self.memory.aget_all(), *self.turn]

    def put(self, message: ChatMessage) -> None:
        """Add a message to the turn."""
        self.turn.append(message)

    async def aput(self, message: ChatMessage) -> None:
        """Add a message to the turn."""
        self.turn.append(message)

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages to the turn."""
        self.turn += messages

    def set(self, messages: list[ChatMessage]) -> None:
        """Replace the chat's messages: a caller gave a history of its own."""
        self.memory.set(messages)
        self.turn = []

    async def aset(self, messages: list[ChatMessage]) -> None:
        """`set` without blocking the event loop."""
        await self.memory.aset(messages)
        self.turn = []

    def reset(self) -> None:
        """Forget the chat and the turn."""
        self.memory.reset()
        self.turn = []

    async def areset(self) -> None:
        """`reset` without blocking the event loop."""
        await self.memory.areset()
        self.turn = []

    # The end of the turn ----------------------------------------------------------------------------------------------

    def remember(self, text: str) -> None:
        """Put the turn into the chat's memory, with the text that was shown in place of the upstream's answer."""
        for message in self._shown(text):
            self.memory.put(message)

    async def aremember(self, text: str) -> None:
        """`remember` without blocking the event loop."""
        for message in self._shown(text):
            await self.memory.aput(message)

    def _shown(self, text: str) -> list[ChatMessage]:
        for i in range(len(self.turn) - 1, -1, -1):
            if self.turn[i].role == MessageRole.ASSISTANT:
                return [*self.turn[:i], with_text(self.turn[i], text), *self.turn[i + 1 :]]
        logger.warning("The chat engine put no answer into its memory, so there is none to correct in it.")
        return self.turn
