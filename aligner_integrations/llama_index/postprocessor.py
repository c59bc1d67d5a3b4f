"""`AlignerNodePostprocessor`: corrects the text of retrieved nodes. It never sees the LLM's answer.

What lives elsewhere: correcting answers (`query_engine.py`, `synthesizer.py`).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from aligner_integrations.aligner import Aligner
from aligner_integrations.correction import Correction
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.citations import Citations
from aligner_integrations.llama_index.corrector import Corrector
from aligner_integrations.llama_index.events import dispatcher
from aligner_integrations.llama_index.response import METADATA_KEY

logger = logging.getLogger(__name__)


class AlignerNodePostprocessor(BaseNodePostprocessor):
    """Corrects the text of retrieved nodes, not the answer. A node postprocessor never sees the answer.

    For the answer, put the aligner behind what gives it: `AlignerQueryEngine(index.as_query_engine(), aligner=aligner)`, or
    `with_aligner` around a chat engine, a response synthesizer or an LLM.

    This one is for sources that are answers themselves (FAQs, forum posts, cached answers), above all with
    `response_mode="no_text"` or a bare retriever. Source nodes then no longer quote the document word for word. All nodes
    are corrected as one batch. A changed node is a copy with the same id and score; its record is
    `node.metadata["aligner"]`, which neither the LLM nor an embedding sees. The index keeps its own text.

    JSON holds no aligner, and a pickle only one that can be pickled: restored without one, this object says so when it
    is used. `AlignerNodePostprocessor.from_dict(data, aligner=aligner)` restores it with one.

    Example:
        >>> faq = index.as_query_engine(response_mode="no_text", node_postprocessors=[AlignerNodePostprocessor(aligner)])

    Args:
        aligner: Corrects the texts. An evaluator as its `accept` judges each correction over the text it was made from.
        citations: What becomes of citation markers: `"keep"`, `"drop"` or `"original_if_lost"`; see `align_response`.
        include_original: Also put the retrieved text into the record.
    """

    aligner: Aligner | None = Field(default=None, exclude=True)
    citations: Citations = "keep"
    include_original: bool = False

    def __init__(
        self,
        aligner: Aligner | None = None,
        *,
        citations: Citations = "keep",
        include_original: bool = False,
        callback_manager: CallbackManager | None = None,
        **data: Any,
    ) -> None:
        # As a dict: to a type checker the base class has no such fields.
        fields = {"aligner": aligner, "citations": citations, "include_original": include_original, **data}
        super().__init__(callback_manager=callback_manager or CallbackManager([]), **fields)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises this class."""
        return "AlignerNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        corrector = self._corrector()
        corrections = corrector.correct_texts(_question(query_bundle), _texts(nodes))
        records = [corrector.record(correction) for correction in corrections]
        return _with_texts(nodes, corrections, records)

    @dispatcher.span  # the base class sees to the synchronous one
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        corrector = self._corrector()
        corrections = await corrector.acorrect_texts(_question(query_bundle), _texts(nodes))
        records = [await corrector.arecord(correction) for correction in corrections]
        return _with_texts(nodes, corrections, records)

    def _corrector(self) -> Corrector:
        _tell_once()
        # BaseComponent leaves out of a pickle what cannot be pickled, so the attribute itself may be missing.
        aligner = getattr(self, "aligner", None)
        if aligner is None:
            raise ConfigurationError(
                "This AlignerNodePostprocessor has no aligner. Make it with aligner=Aligner(); if it was restored from "
                "JSON or a pickle, set its .aligner, because those cannot hold one."
            )
        return Corrector(aligner, self.citations, self.include_original)


@functools.cache
def _tell_once() -> None:
    """In each process, at first use: whoever wanted the answer corrected sees nothing go wrong otherwise."""
    logger.warning(
        "AlignerNodePostprocessor corrects the text of retrieved nodes. The LLM's answer stays as it is: for that, use "
        "AlignerQueryEngine(index.as_query_engine()) or with_aligner of aligner_integrations.llama_index."
    )


def _question(query: QueryBundle | None) -> str:
    return "" if query is None else query.query_str


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]


def _with_texts(
    nodes: list[NodeWithScore], corrections: list[Correction], records: list[dict[str, Any]]
) -> list[NodeWithScore]:
    return [
        _with_text(node, correction.text, record) if correction.changed else node
        for node, correction, record in zip(nodes, corrections, records, strict=True)
    ]


def _with_text(scored: NodeWithScore, text: str, record: dict[str, Any]) -> NodeWithScore:
    # A copy: an index in memory hands out its own nodes. Not a deep one: an IndexNode may hold a whole engine.
    node = scored.node.model_copy()
    node.metadata = {**node.metadata, METADATA_KEY: record}
    node.excluded_embed_metadata_keys = _with_key(node.excluded_embed_metadata_keys)
    node.excluded_llm_metadata_keys = _with_key(node.excluded_llm_metadata_keys)
    node.set_content(text)
    return NodeWithScore(node=node, score=scored.score)


def _with_key(keys: list[str]) -> list[str]:
    return keys if METADATA_KEY in keys else [*keys, METADATA_KEY]
