"""`TurnMemory`: what a chat engine notes during one turn, before it is known what of it was shown.

What lives elsewhere: the turns (`chat_engine.py`).
"""

from __future__ import annotations

import logging
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.bridge.pydantic import Field
from llama_index.core.memory import BaseMemory

logger = logging.getLogger(__name__)


class TurnMemory(BaseMemory):
    """Reads a chat's memory, and keeps to itself what is put into it. Lives for one turn.

    Attributes:
        memory: The chat's memory, a `BaseMemory`; None if the engine keeps its history where it is not reached.
        question: The user's words.
        turn: What was put during this turn.
    """

    memory: Any
    question: str
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
        # A message takes no QueryBundle: engines that are asked one would note the user's without a word of it.
        wordless = message.role == MessageRole.USER and not message.blocks
        self.turn.append(self._asked() if wordless else message)

    async def aput(self, message: ChatMessage) -> None:
        """Add a message to the turn."""
        self.put(message)

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages to the turn."""
        for message in messages:
            self.put(message)

    def _asked(self) -> ChatMessage:
        return ChatMessage(role=MessageRole.USER, content=self.question)

    def set(self, messages: list[ChatMessage]) -> None:
        """Replace the chat's messages: a caller gave a history of its own."""
        # At once and not at the end of the turn: these are the caller's words, and the engine reads them back meanwhile.
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

    def answer(self, draft: str) -> ChatMessage:
        """Return the message that holds an answer: the engine's own, with all its blocks, if that says the same."""
        last = self._last()
        if last is not None and str(self.turn[last].content).strip() == draft.strip():
            return self.turn[last]
        return ChatMessage(role=MessageRole.ASSISTANT, content=draft)

    def remember(self, message: ChatMessage | None) -> None:
        """Put the turn into the chat's memory, with the message that was shown as its answer; None: none was, to its end."""
        for one in self._shown(message) if self.memory is not None else ():
            self.memory.put(one)

    async def aremember(self, message: ChatMessage | None) -> None:
        """`remember` without blocking the event loop."""
        for one in self._shown(message) if self.memory is not None else ():
            await self.memory.aput(one)

    def _shown(self, message: ChatMessage | None) -> list[ChatMessage]:
        if message is None:
            return [one for one in self.turn if one.role == MessageRole.USER] or [self._asked()]
        last = self._last()
        if last is None:
            logger.warning("The chat engine put no answer into its memory, so there is none to correct in it.")
            return self.turn
        return [*self.turn[:last], message, *self.turn[last + 1 :]]

    def _last(self) -> int | None:
        # From the end: an engine may note several messages of its own in a turn, and the last is the one that was shown.
        return next((i for i in reversed(range(len(self.turn))) if self.turn[i].role == MessageRole.ASSISTANT), None)
