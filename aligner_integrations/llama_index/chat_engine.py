"""`AlignerChatEngine`: a chat engine whose answers are corrected, on the screen and in its memory.

An engine writes its answer into its memory before anybody can correct it. So each turn runs with a memory of its own, and the
chat's memory is given the turn once it is known what was shown.

What lives elsewhere: that memory (`turn_memory.py`), what happens to one text (`corrector.py`), and the policy (`Aligner`).
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, cast
from weakref import ReferenceType

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
    TextBlock,
)
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.chat_engine.types import (
    AGENT_CHAT_RESPONSE_TYPE,
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.memory import BaseMemory
from llama_index.core.schema import QueryType
from llama_index.core.tools import ToolOutput

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector, aligner_from
from aligner_integrations.llama_index.delegation import HandsOn
from aligner_integrations.llama_index.messages import answer_in, response_with_text, with_correction
from aligner_integrations.llama_index.question import words_of
from aligner_integrations.llama_index.response import METADATA_KEY
from aligner_integrations.llama_index.turn_memory import TurnMemory

logger = logging.getLogger(__name__)


@dataclass
class AlignedChatStream(StreamingAgentChatResponse):
    """LlamaIndex's streaming chat response with the metadata it lacks: `metadata["aligner"]` once it is read."""

    metadata: dict[str, Any] | None = None

    @property
    def response_gen(self) -> Generator[str, None, None]:
        """The text in pieces. To close it is to abandon the chat's turn."""
        try:
            yield from super().response_gen
        finally:
            if self.chat_stream is not None:
                self.chat_stream.close()

    async def async_response_gen(self) -> AsyncGenerator[str, None]:
        """`response_gen` without blocking the event loop."""
        try:
            async for piece in super().async_response_gen():
                yield piece
        finally:
            if self.achat_stream is not None:
                await self.achat_stream.aclose()


class AlignerChatEngine(HandsOn, BaseChatEngine):
    """Wraps a chat engine and corrects its answers; its memory holds what was shown.

    Works in all chat modes. A stream is made of the engine's own, which is read as the LLM writes it; an engine that cannot
    stream is asked at once instead. (One over a query engine that does not stream says so only after its answer, and is asked
    twice: make that one with `streaming=True`.) The question is the user's message, a string or a QueryBundle, whatever the
    engine condenses it to; one without words, such as an image, is none, and its answer is left alone (`no_question`).

    A turn enters the memory once its correction is complete: until then, and if that fails, the memory is as it was before
    the turn. Of a stream that is closed before its end the chat keeps what the user said, and never the answer. Each turn runs
    on a shallow copy of the engine, so turns may overlap.

    What else the wrapped engine has is reached through this one.

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

    _inner: BaseChatEngine

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
        self._inner = engine
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

    def chat(self, message: QueryType, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message, corrected."""
        engine, turn = self._for_a_turn(message)
        draft = engine.chat(message, chat_history)
        said = turn.answer(str(draft))
        corrected = self._corrector.recorded(words_of(message), answer_in(said), draft.source_nodes)
        shown = with_correction(said, corrected[0], self._corrector.citations, corrected[1])
        turn.remember(shown)
        return _aligned(draft, shown, *corrected)

    async def achat(self, message: QueryType, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """`chat` without blocking the event loop."""
        engine, turn = self._for_a_turn(message)
        draft = await engine.achat(message, chat_history)
        said = turn.answer(str(draft))
        corrected = await self._corrector.arecorded(words_of(message), answer_in(said), draft.source_nodes)
        shown = with_correction(said, corrected[0], self._corrector.citations, corrected[1])
        await turn.aremember(shown)
        return _aligned(draft, shown, *corrected)

    def stream_chat(self, message: QueryType, chat_history: list[ChatMessage] | None = None) -> AlignedChatStream:
        """Answer a message; the aligner's own pieces are streamed once the upstream has answered."""
        engine, turn = self._for_a_turn(message)
        try:
            draft: AGENT_CHAT_RESPONSE_TYPE = engine.stream_chat(message, chat_history)
        except (NotImplementedError, ValueError) as error:
            if not _cannot_stream(error):
                raise
            engine, turn = self._for_a_turn(message)  # another one: this may have noted the message already
            draft = engine.chat(message, chat_history)
        stream = _stream(draft)
        stream.chat_stream = self._pieces(words_of(message), draft, turn, weakref.ref(stream))
        next(stream.chat_stream)
        return stream

    async def astream_chat(
        self, message: QueryType, chat_history: list[ChatMessage] | None = None
    ) -> AlignedChatStream:
        """`stream_chat` without blocking the event loop."""
        engine, turn = self._for_a_turn(message)
        try:
            draft: AGENT_CHAT_RESPONSE_TYPE = await engine.astream_chat(message, chat_history)
        except (NotImplementedError, ValueError) as error:
            if not _cannot_stream(error):
                raise
            engine, turn = self._for_a_turn(message)
            draft = await engine.achat(message, chat_history)
        stream = _stream(draft)
        stream.achat_stream = self._apieces(words_of(message), draft, turn, weakref.ref(stream))
        await anext(stream.achat_stream)
        return stream

    # By a weak reference: a stream that is let go unread is then closed at once, and does not wait for a garbage collection.

    def _pieces(
        self, question: str, draft: AGENT_CHAT_RESPONSE_TYPE, turn: TurnMemory, stream: ReferenceType[AlignedChatStream]
    ) -> ChatResponseGen:
        shown, nodes = "", cast(AlignedChatStream, stream()).source_nodes
        try:
            # Taken by stream_chat: a generator that was never begun would not notice that it is closed.
            yield _chunk("", "")
            with self.aligner.prefill(question) as prefill:
                answer = "".join(prefill.through(_read(draft)))
                with closing(self._corrector.stream(question, answer, nodes)) as pieces:
                    for piece in pieces:
                        shown += piece
                        yield _chunk(shown, piece)
        except GeneratorExit:  # nobody saw the end of the answer, so the chat does not know it either
            turn.remember(None)
            raise
        correction = cast(Correction, pieces.correction)  # read to its end
        record = self._corrector.record(correction)
        turn.remember(with_correction(turn.answer(answer), correction, self._corrector.citations, record))
        _complete(stream(), draft, answer, correction, record)

    async def _apieces(
        self, question: str, draft: AGENT_CHAT_RESPONSE_TYPE, turn: TurnMemory, stream: ReferenceType[AlignedChatStream]
    ) -> ChatResponseAsyncGen:
        shown, nodes = "", cast(AlignedChatStream, stream()).source_nodes
        try:
            yield _chunk("", "")  # as above
            with self.aligner.prefill(question) as prefill:
                answer = "".join([piece async for piece in prefill.athrough(_aread(draft))])
                async with aclosing(self._corrector.astream(question, answer, nodes)) as pieces:
                    async for piece in pieces:
                        shown += piece
                        yield _chunk(shown, piece)
        except (GeneratorExit, asyncio.CancelledError):
            await turn.aremember(None)
            raise
        correction = cast(Correction, pieces.correction)  # read to its end
        record = await self._corrector.arecord(correction)
        await turn.aremember(with_correction(turn.answer(answer), correction, self._corrector.citations, record))
        _complete(stream(), draft, answer, correction, record)

    # Memory -----------------------------------------------------------------------------------------------------------

    # No public member leads to an engine's memory, but all of LlamaIndex's own engines call it so.
    @property
    def _memory(self) -> BaseMemory | None:
        memory = getattr(self._inner, "_memory", None)
        return memory if isinstance(memory, BaseMemory) else None

    @_memory.setter
    def _memory(self, memory: BaseMemory) -> None:
        # Used by an AlignerChatEngine around this one, on its copy: the innermost engine is to write into the turn.
        self._inner = _with_memory(self._inner, memory)

    def _for_a_turn(self, message: QueryType) -> tuple[Any, TurnMemory]:
        """Return the engine with a memory for this turn alone, because turns may overlap."""
        turn = TurnMemory(memory=self._memory, question=words_of(message))
        return self._inner if turn.memory is None else _with_memory(self._inner, turn), turn

    @property
    def chat_history(self) -> list[ChatMessage]:
        """The messages of this chat, as they were shown."""
        return self._inner.chat_history

    def reset(self) -> None:
        """Forget the chat."""
        self._inner.reset()

    @property
    def callback_manager(self) -> CallbackManager:
        """The wrapped engine's callback manager; an AttributeError if it has none."""
        inner: Any = self._inner  # no member of BaseChatEngine, though all of LlamaIndex's own engines have it
        callback_manager: CallbackManager = inner.callback_manager
        return callback_manager

    @callback_manager.setter
    def callback_manager(self, callback_manager: CallbackManager) -> None:
        inner: Any = self._inner
        inner.callback_manager = callback_manager


def _with_memory(engine: Any, memory: BaseMemory) -> BaseChatEngine:
    engine = copy.copy(engine)
    engine._memory = memory
    aligned: BaseChatEngine = engine
    return aligned


# Streams ----------------------------------------------------------------------------------------------------------------


def _cannot_stream(error: Exception) -> bool:
    """Whether an engine cannot stream, or the query engine under a CondenseQuestionChatEngine, which says so only then."""
    return isinstance(error, NotImplementedError) or str(error).startswith("Streaming is not enabled")


def _read(draft: AGENT_CHAT_RESPONSE_TYPE) -> Iterator[str]:
    return draft.response_gen if isinstance(draft, StreamingAgentChatResponse) else iter([draft.response])


async def _aread(draft: AGENT_CHAT_RESPONSE_TYPE) -> AsyncIterator[str]:
    if not isinstance(draft, StreamingAgentChatResponse):
        yield draft.response
    else:
        async with aclosing(draft.async_response_gen()) as pieces:
            async for piece in pieces:
                yield piece


def _stream(draft: AGENT_CHAT_RESPONSE_TYPE) -> AlignedChatStream:
    return AlignedChatStream(
        sources=_sources(draft, draft.response, ""),  # the text follows when the stream is read
        source_nodes=draft.source_nodes,
        is_writing_to_memory=False,
        metadata=_metadata(draft),
    )


def _complete(
    stream: AlignedChatStream | None,
    draft: AGENT_CHAT_RESPONSE_TYPE,
    answer: str,
    correction: Correction,
    record: dict[str, Any],
) -> None:
    if stream is not None:
        stream.metadata = _metadata(draft, correction) | {METADATA_KEY: record}
        stream.sources = _sources(draft, answer, correction.text, blocked=correction.blocked)
        stream.is_done = True


def _aligned(
    draft: AGENT_CHAT_RESPONSE_TYPE, shown: ChatMessage, correction: Correction, record: dict[str, Any]
) -> AgentChatResponse:
    text = (shown.content or "") if correction.changed else str(draft)
    sources = _sources(draft, str(draft), text, blocked=correction.blocked)
    metadata = _metadata(draft, correction) | {METADATA_KEY: record}
    if isinstance(draft, AgentChatResponse):
        return dataclasses.replace(draft, response=text, sources=sources, metadata=metadata)
    return AgentChatResponse(text, sources, draft.source_nodes, metadata=metadata)


def _sources(draft: AGENT_CHAT_RESPONSE_TYPE, answer: str, text: str, *, blocked: bool = False) -> list[ToolOutput]:
    """The tools' outputs; where one is the upstream's answer itself (condensed questions), the text takes its place."""
    sources = []
    for source in draft.sources:
        raw = source.raw_output
        if source.content == answer or isinstance(raw, StreamingResponse | AsyncStreamingResponse):
            raw = response_with_text(raw, text, blocked=blocked)
            source = source.model_copy(update={"blocks": [TextBlock(text=text)], "raw_output": raw})
        sources.append(source)
    return sources


def _metadata(draft: AGENT_CHAT_RESPONSE_TYPE, correction: Correction | None = None) -> dict[str, Any]:
    if correction is not None and correction.blocked:
        return {}
    return getattr(draft, "metadata", None) or {}  # only one of the two types has it


def _chunk(shown: str, piece: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=shown), delta=piece)
