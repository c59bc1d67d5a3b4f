"""`AlignerSynthesizer`: a response synthesizer whose answers are corrected.

What lives elsewhere: how a response is aligned (`response.py`), and the policy (`Aligner`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.mock import MockLLM
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode, get_response_synthesizer
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.schema import NodeWithScore, QueryType, TextNode
from llama_index.core.types import RESPONSE_TEXT_TYPE

from aligner_integrations.aligner import Aligner
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector, aligner_from
from aligner_integrations.llama_index.delegation import HandsOn
from aligner_integrations.llama_index.question import words_of
from aligner_integrations.llama_index.response import aalign, align


class AlignerSynthesizer(HandsOn, BaseSynthesizer):
    """Wraps a response synthesizer and corrects its answers; the query engine around it stays what it was.

    This is for those who stay inside `index.as_query_engine(response_synthesizer=...)`, and for engines that must
    be LlamaIndex's own (condensed questions that stream, FLARE, SQL). `as_query_engine` ignores `llm`, `streaming`,
    `response_mode` and templates next to a synthesizer, so give them here. `as_chat_engine` ignores the synthesizer in
    all modes but "condense_question"; use `AlignerChatEngine` for the others. LlamaIndex's synthesis events hold the
    upstream's answer, the query's end event the corrected one.

    Example:
        >>> synthesizer = AlignerSynthesizer(aligner=aligner, llm=llm, response_mode="compact")
        >>> engine = index.as_query_engine(response_synthesizer=synthesizer)

    Args:
        synthesizer: What writes the answers. Default: `get_response_synthesizer(**options)`.
        aligner: Corrects them. Default: `Aligner()`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record.
        pydantic_field: The field of a structured response that holds the answer; such responses are left alone
            without it.
        **options: For `get_response_synthesizer`, instead of `synthesizer`.

    Raises:
        ConfigurationError: Both a synthesizer and options, or something that is no synthesizer.
    """

    _inner: BaseSynthesizer

    def __init__(
        self,
        synthesizer: BaseSynthesizer | None = None,
        aligner: Aligner | None = None,
        *,
        citations: Citations = "keep",
        include_original: bool = False,
        pydantic_field: str | None = None,
        **options: Any,
    ) -> None:
        if synthesizer is not None and options:
            raise ConfigurationError(
                f"Give either a synthesizer or options for one, not both: one was passed with {sorted(options)}."
            )
        if synthesizer is not None and not isinstance(synthesizer, BaseSynthesizer):
            raise ConfigurationError(
                f"AlignerSynthesizer wraps a response synthesizer, got {type(synthesizer).__name__}."
            )
        # Not super().__init__(): it would resolve Settings.llm and set the callback manager of an LLM that is not ours.
        self._inner = _make(**options) if synthesizer is None else synthesizer
        self._corrector = Corrector(aligner_from(aligner), citations, include_original, pydantic_field)

    @property
    def aligner(self) -> Aligner:
        """What corrects the answers."""
        return self._corrector.aligner

    # Answers ----------------------------------------------------------------------------------------------------------

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answer from given nodes, corrected."""
        response = self._inner.synthesize(query, nodes, additional_source_nodes, **response_kwargs)
        return align(self._corrector, words_of(query), response)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """`synthesize` without blocking the event loop."""
        response = await self._inner.asynthesize(query, nodes, additional_source_nodes, **response_kwargs)
        return await aalign(self._corrector, words_of(query), response)

    # RouterQueryEngine and others ask for the text alone.

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> RESPONSE_TEXT_TYPE:
        """Answer from given texts, corrected."""
        text = self._inner.get_response(query_str, text_chunks, **response_kwargs)
        return self._text(query_str, text, text_chunks)

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """`get_response` without blocking the event loop."""
        text = await self._inner.aget_response(query_str, text_chunks, **response_kwargs)
        return await self._atext(query_str, text, text_chunks)

    def get_response_from_messages(
        self, query_str: str, message_chunks: Sequence[ChatMessage], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """Answer from given messages (texts and images), corrected."""
        text = self._inner.get_response_from_messages(query_str, message_chunks, **response_kwargs)
        return self._text(query_str, text, [message.content or "" for message in message_chunks])

    async def aget_response_from_messages(
        self, query_str: str, message_chunks: Sequence[ChatMessage], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """`get_response_from_messages` without blocking the event loop."""
        text = await self._inner.aget_response_from_messages(query_str, message_chunks, **response_kwargs)
        return await self._atext(query_str, text, [message.content or "" for message in message_chunks])

    def _text(self, question: str, text: RESPONSE_TEXT_TYPE, chunks: Sequence[str]) -> RESPONSE_TEXT_TYPE:
        return _text_of(align(self._corrector, question, _response(text, chunks)))

    async def _atext(self, question: str, text: RESPONSE_TEXT_TYPE, chunks: Sequence[str]) -> RESPONSE_TEXT_TYPE:
        return _text_of(await aalign(self._corrector, question, _response(text, chunks)))

    # What is the wrapped synthesizer's, as it is ----------------------------------------------------------------------

    # CondenseQuestionChatEngine switches streaming on and off from outside.
    @property
    def _streaming(self) -> bool:
        return self._inner._streaming

    @_streaming.setter
    def _streaming(self, streaming: bool) -> None:
        self._inner._streaming = streaming

    @property
    def callback_manager(self) -> CallbackManager:
        """The wrapped synthesizer's callback manager."""
        return self._inner.callback_manager

    @callback_manager.setter
    def callback_manager(self, callback_manager: CallbackManager) -> None:
        self._inner.callback_manager = callback_manager

    # No level of its own, so that prompts keep the names they have without this class.

    def _get_prompts(self) -> PromptDictType:
        return self._inner._get_prompts()

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._inner._update_prompts(prompts)

    def _get_prompt_modules(self) -> PromptMixinType:
        return self._inner._get_prompt_modules()


def _make(
    llm: LLM | None = None, response_mode: ResponseMode = ResponseMode.COMPACT, **options: Any
) -> BaseSynthesizer:
    """`get_response_synthesizer`, which asks for the LLM of the settings even in the modes that use none."""
    without_llm = {ResponseMode.NO_TEXT: NoText, ResponseMode.CONTEXT_ONLY: ContextOnly}
    if response_mode in without_llm:
        used = {name: options[name] for name in ("callback_manager", "streaming") if name in options}
        return without_llm[response_mode](llm=llm or MockLLM(), **used)
    return get_response_synthesizer(llm=llm, response_mode=response_mode, **options)


def _response(text: Any, chunks: Sequence[str]) -> RESPONSE_TYPE:
    """Return what `synthesize` would make of a text."""
    nodes = [NodeWithScore(node=TextNode(text=chunk)) for chunk in chunks]
    if isinstance(text, str):
        return Response(text, nodes)
    if isinstance(text, BaseModel):
        return PydanticResponse(text, nodes)
    if isinstance(text, AsyncGenerator):
        return AsyncStreamingResponse(text, nodes)
    return StreamingResponse(text, nodes)


def _text_of(response: Any) -> RESPONSE_TEXT_TYPE:
    """Return the text, or the stream, of one of the responses that `_response` makes."""
    whole = isinstance(response, Response | PydanticResponse)
    text: RESPONSE_TEXT_TYPE = response.response if whole else response.response_gen
    return text
