"""`AlignerQueryEngine`: a query engine whose answers are corrected.

What lives elsewhere: how a response is aligned (`response.py`), and the policy (`Aligner`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle

from aligner_integrations.aligner import Aligner
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector, aligner_from
from aligner_integrations.llama_index.delegation import HandsOn
from aligner_integrations.llama_index.question import words_of
from aligner_integrations.llama_index.response import aalign, align


class AlignerQueryEngine(HandsOn, BaseQueryEngine):
    """Wraps a query engine and corrects its answers, in sync, async and streaming calls alike.

    The question is what this engine is asked (without the failed answers that a retry engine around it adds), so it
    belongs outside of engines that rewrite the question. Source nodes, metadata and the type of the response stay; the record of the correction is
    `response.metadata["aligner"]`, a key among the nodes' ids, so read what the sources say of themselves from
    `response.source_nodes`. The wrapped engine's prompts are reached through this engine under the same names, and so is what
    else it has (`retriever`).

    LlamaIndex traces both engines: the inner end event holds the upstream's answer, the outer one the corrected.

    Example:
        >>> engine = AlignerQueryEngine(index.as_query_engine(similarity_top_k=3))
        >>> response = engine.query("Which plants are toxic to cats?")
        >>> response.metadata["aligner"]["outcome"]
        'corrected'

    Args:
        engine: The query engine that answers.
        aligner: Corrects its answers. Default: `Aligner(**options)`.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the upstream's text into the record.
        pydantic_field: The field of a structured response that holds the answer; such responses are left alone
            without it.
        callback_manager: Default: that of `engine`.
        **options: For `Aligner`, instead of `aligner`.

    Raises:
        ConfigurationError: Both an aligner and options, or something that is no query engine.
    """

    _inner: BaseQueryEngine

    def __init__(
        self,
        engine: BaseQueryEngine,
        aligner: Aligner | None = None,
        *,
        citations: Citations = "keep",
        include_original: bool = False,
        pydantic_field: str | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(engine, BaseQueryEngine):
            raise ConfigurationError(
                f"AlignerQueryEngine wraps a query engine, got {type(engine).__name__}. "
                "An index gives one with index.as_query_engine()."
            )
        self._inner = engine
        self._corrector = Corrector(aligner_from(aligner, **options), citations, include_original, pydantic_field)
        super().__init__(engine.callback_manager if callback_manager is None else callback_manager)

    @property
    def aligner(self) -> Aligner:
        """What corrects the answers."""
        return self._corrector.aligner

    # Answers ----------------------------------------------------------------------------------------------------------

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=query) as event:
            # query() and not _query(): CustomQueryEngine has only the former, and the inner engine keeps its own trace.
            response = align(self._corrector, words_of(query_bundle), self._inner.query(query_bundle))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=query) as event:
            response = await aalign(self._corrector, words_of(query_bundle), await self._inner.aquery(query_bundle))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def synthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Answer from given nodes, corrected; for engines that can."""
        response = self._inner.synthesize(query_bundle, nodes, additional_source_nodes)
        return align(self._corrector, words_of(query_bundle), response)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """`synthesize` without blocking the event loop."""
        response = await self._inner.asynthesize(query_bundle, nodes, additional_source_nodes)
        return await aalign(self._corrector, words_of(query_bundle), response)

    # What is the wrapped engine's, as it is ---------------------------------------------------------------------------

    def with_retriever(self, retriever: BaseRetriever) -> AlignerQueryEngine:
        """Return this engine with another retriever, if the wrapped engine can; an AttributeError if it cannot."""
        engine = copy.copy(self)
        inner: Any = self._inner  # no member of BaseQueryEngine, though most engines have it
        engine._inner = inner.with_retriever(retriever)
        return engine

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Retrieve nodes with the wrapped engine, if it can."""
        return self._inner.retrieve(query_bundle)

    async def aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """`retrieve` without blocking the event loop, if the wrapped engine can.

        Raises:
            NotImplementedError: It cannot, as BaseQueryEngine says of `retrieve`.
        """
        aretrieve = getattr(self._inner, "aretrieve", None)
        if aretrieve is None:
            raise NotImplementedError(f"{type(self._inner).__name__} does not support aretrieve, use aquery directly")
        nodes: list[NodeWithScore] = await aretrieve(query_bundle)
        return nodes

    # PromptMixin would name the prompts "engine:response_synthesizer:text_qa_template", and cannot update names with two
    # colons. So this engine adds no level of its own.

    def get_prompts(self) -> dict[str, BasePromptTemplate]:
        """Return the wrapped engine's prompts under its own names."""
        return self._inner.get_prompts()

    def update_prompts(self, prompts_dict: PromptDictType) -> None:
        """Update the wrapped engine's prompts."""
        self._inner.update_prompts(prompts_dict)

    def _get_prompt_modules(self) -> PromptMixinType:
        return self._inner._get_prompt_modules()
