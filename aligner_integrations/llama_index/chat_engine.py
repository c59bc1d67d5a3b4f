"""`AlignerChatEngine`: a chat engine whose answers are corrected, on the screen and in its memory.

An engine writes its answer into its memory before anybody can correct it. So each turn runs with a memory of its own
(`TurnMemory`), and the chat's memory is given the turn once it is known what was shown.

What lives elsewhere: what happens to one text (`corrector.py`), and the policy (`Aligner`).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.chat_engine.types import (
    AGENT_CHAT_RESPONSE_TYPE,
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.memory import BaseMemory
from llama_index.core.tools import ToolOutput

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector, aligner_from
from aligner_integrations.llama_index.messages import response_with_text, with_text
from aligner_integrations.llama_index.response import METADATA_KEY

logger = logging.getLogger(__name__)


@dataclass
class AlignedChatStream(StreamingAgentChatResponse):
    """LlamaIndex's streaming chat response with the metadata it lacks: `metadata["aligner"]` once it is read."""

    metadata: dict[str, Any] | None = None


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

    def remember(self, text: str) -> None:
        """Put the turn into the chat's memory, with the text that was shown in place of the upstream's answer."""
        for message in self._shown(text):
            self.memory.put(message)

    async def aremember(self, text: str) -> None:
        """`remember` without blocking the event loop."""
        for message in self._shown(text):
            await self.memory.aput(message)

    def _shown(self, text: str) -> list[ChatMessage]:
        # From the end: an engine may note several messages of its own in a turn, and the last is the one that was shown.
        for i in range(len(self.turn) - 1, -1, -1):
            if self.turn[i].role == MessageRole.ASSISTANT:
                return [*self.turn[:i], with_text(self.turn[i], text), *self.turn[i + 1 :]]
        logger.warning("The chat engine put no answer into its memory, so there is none to correct in it.")
        return self.turn


class AlignerChatEngine(BaseChatEngine):
    """Wraps a chat engine and corrects its answers; its memory holds what was shown.

    Works in all chat modes, also in streams of engines that cannot stream. The question is the user's message, whatever
    the engine condenses it to. A turn enters the memory once its correction is complete: until then, and if that fails or
    a stream is not read to its end, the memory is as it was before the turn. Each turn runs on a shallow copy of the
    engine, so turns may overlap.

    Example:
        >>> engine = AlignerChatEngine(index.as_chat_engine(chat_mode="context", llm=llm), aligner=aligner)
        >>> engine.chat("Which plants are toxic to cats?").metadata["aligner"]["outcome"]
        'corrected'

    Args:
        engine: The chat engine that answers.
        aligner: Corrects its answers. Default: `Aligner(**options)`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record.
        **options: For `Aligner`, instead of `aligner`.

    Raises:
        ConfigurationError: Both an aligner and options, or something that is no chat engine.
    """

    def __init__(
        self,
        engine: BaseChatEngine,
        aligner: Aligner | None = None,
        *,
        citations: Citations = "keep",
        include_original: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(engine, BaseChatEngine):
            raise ConfigurationError(
                f"AlignerChatEngine wraps a chat engine, got {type(engine).__name__}. "
                "An index gives one with index.as_chat_engine()."
            )
        self._engine = engine
        self._corrector = Corrector(
            aligner_from(aligner, **options), citations, include_original, question_from="message"
        )
        if self._memory is None:
            logger.warning(
                "%s keeps its history where AlignerChatEngine cannot reach it: its next turns are conditioned on its "
                "own uncorrected answers.",
                type(engine).__name__,
            )

    @property
    def aligner(self) -> Aligner:
        """What corrects the answers."""
        return self._corrector.aligner

    # Answers ----------------------------------------------------------------------------------------------------------

    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message, corrected."""
        engine, turn = self._for_a_turn()
        draft = engine.chat(message, chat_history)
        correction, record = self._corrector.recorded(message, str(draft), draft.source_nodes)
        if turn is not None:
            turn.remember(correction.text)
        return _aligned(draft, correction, record)

    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """`chat` without blocking the event loop."""
        engine, turn = self._for_a_turn()
        draft = await engine.achat(message, chat_history)
        correction, record = await self._corrector.arecorded(message, str(draft), draft.source_nodes)
        if turn is not None:
            await turn.aremember(correction.text)
        return _aligned(draft, correction, record)

    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AlignedChatStream:
        """Answer a message; the aligner's own pieces are streamed once the upstream has answered."""
        engine, turn = self._for_a_turn()
        draft = engine.chat(message, chat_history)
        stream = _stream(draft)
        stream.chat_stream = self._pieces(message, draft, turn, stream)
        return stream

    async def astream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AlignedChatStream:
        """`stream_chat` without blocking the event loop."""
        engine, turn = self._for_a_turn()
        draft = await engine.achat(message, chat_history)
        stream = _stream(draft)
        stream.achat_stream = self._apieces(message, draft, turn, stream)
        return stream

    def _pieces(
        self, message: str, draft: AGENT_CHAT_RESPONSE_TYPE, turn: TurnMemory | None, stream: AlignedChatStream
    ) -> ChatResponseGen:
        shown = ""
        with closing(self._corrector.stream(message, str(draft), draft.source_nodes)) as pieces:
            for piece in pieces:
                shown += piece
                yield _chunk(shown, piece)
        correction = cast(Correction, pieces.correction)  # read to its end
        # Not before: of a stream that was closed early nobody saw the end, so the chat does not know it either.
        if turn is not None:
            turn.remember(correction.text)
        _complete(stream, draft, correction, self._corrector.record(correction))

    async def _apieces(
        self, message: str, draft: AGENT_CHAT_RESPONSE_TYPE, turn: TurnMemory | None, stream: AlignedChatStream
    ) -> ChatResponseAsyncGen:
        shown = ""
        async with aclosing(self._corrector.astream(message, str(draft), draft.source_nodes)) as pieces:
            async for piece in pieces:
                shown += piece
                yield _chunk(shown, piece)
        correction = cast(Correction, pieces.correction)  # read to its end
        if turn is not None:
            await turn.aremember(correction.text)
        _complete(stream, draft, correction, await self._corrector.arecord(correction))

    # Memory -----------------------------------------------------------------------------------------------------------

    # No public member leads to an engine's memory, but all of LlamaIndex's own engines call it so.
    @property
    def _memory(self) -> BaseMemory | None:
        memory = getattr(self._engine, "_memory", None)
        return memory if isinstance(memory, BaseMemory) else None

    @_memory.setter
    def _memory(self, memory: BaseMemory) -> None:
        # Used by an AlignerChatEngine around this one, on its copy: the innermost engine is to write into the turn.
        self._engine = _with_memory(self._engine, memory)

    def _for_a_turn(self) -> tuple[BaseChatEngine, TurnMemory | None]:
        """Return the engine with a memory for this turn alone, because turns may overlap; None: it has no memory."""
        if self._memory is None:
            return self._engine, None
        turn = TurnMemory(memory=self._memory)
        return _with_memory(self._engine, turn), turn

    @property
    def chat_history(self) -> list[ChatMessage]:
        """The messages of this chat, as they were shown."""
        return self._engine.chat_history

    def reset(self) -> None:
        """Forget the chat."""
        self._engine.reset()


def _with_memory(engine: Any, memory: BaseMemory) -> BaseChatEngine:
    engine = copy.copy(engine)
    engine._memory = memory
    aligned: BaseChatEngine = engine
    return aligned


def _stream(draft: AGENT_CHAT_RESPONSE_TYPE) -> AlignedChatStream:
    return AlignedChatStream(
        sources=_sources(draft, ""),  # the text follows when the stream is read
        source_nodes=draft.source_nodes,
        is_writing_to_memory=False,
        metadata=_metadata(draft),
    )


def _complete(
    stream: AlignedChatStream, draft: AGENT_CHAT_RESPONSE_TYPE, correction: Correction, record: dict[str, Any]
) -> None:
    stream.metadata = {**(stream.metadata or {}), METADATA_KEY: record}
    stream.sources = _sources(draft, correction.text)
    stream.is_done = True


def _aligned(draft: AGENT_CHAT_RESPONSE_TYPE, correction: Correction, record: dict[str, Any]) -> AgentChatResponse:
    sources, metadata = _sources(draft, correction.text), {**(_metadata(draft) or {}), METADATA_KEY: record}
    if isinstance(draft, AgentChatResponse):
        return dataclasses.replace(draft, response=correction.text, sources=sources, metadata=metadata)
    return AgentChatResponse(correction.text, sources, draft.source_nodes, metadata=metadata)


def _sources(draft: AGENT_CHAT_RESPONSE_TYPE, text: str) -> list[ToolOutput]:
    """The tools' outputs; where one is the upstream's answer itself (condensed questions), the text takes its place."""
    return [_with_output(source, text) if source.content == str(draft) else source for source in draft.sources]


def _with_output(source: ToolOutput, text: str) -> ToolOutput:
    raw = response_with_text(source.raw_output, text)
    return source.model_copy(update={"blocks": [TextBlock(text=text)], "raw_output": raw})


def _metadata(draft: AGENT_CHAT_RESPONSE_TYPE) -> dict[str, Any] | None:
    return getattr(draft, "metadata", None)  # only one of the two types has it


def _chunk(shown: str, piece: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=shown), delta=piece)
