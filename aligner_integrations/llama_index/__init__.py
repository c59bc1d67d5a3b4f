"""Aligners for LlamaIndex: wrappers around what produces an answer, so that the answer is corrected before it is shown.

    engine = AlignerQueryEngine(index.as_query_engine())
    engine = with_aligner(index.as_chat_engine(), aligner)      # picks the wrapper

What lives here: the public names, and the check that LlamaIndex is installed. One file wraps one thing that answers:
`query_engine.py`, `synthesizer.py`, `chat_engine.py`, `llm.py`, `agent.py`; `postprocessor.py` corrects retrieved text
instead. All end in `response.py` (one response), `messages.py` (one message) and `corrector.py` (one text). A step of a workflow
calls `aalign_response`.
"""

from __future__ import annotations

from aligner_integrations.errors import require

with require("llama-index", "aligner_integrations.llama_index needs llama-index-core", "llama_index.core"):
    import llama_index.core  # noqa: F401 - only to say in a sentence that it is missing

from aligner_integrations.llama_index.agent import AlignerAgentWorkflow, AlignerFunctionAgent, AlignerReActAgent
from aligner_integrations.llama_index.chat_engine import AlignerChatEngine
from aligner_integrations.llama_index.events import AlignEndEvent, AlignStartEvent
from aligner_integrations.llama_index.llm import AlignerFunctionCallingLLM, AlignerLLM
from aligner_integrations.llama_index.postprocessor import AlignerNodePostprocessor
from aligner_integrations.llama_index.query_engine import AlignerQueryEngine
from aligner_integrations.llama_index.response import aalign_response, align_response
from aligner_integrations.llama_index.synthesizer import AlignerSynthesizer
from aligner_integrations.llama_index.with_aligner import with_aligner

__all__ = [
    "AlignEndEvent",
    "AlignStartEvent",
    "AlignerAgentWorkflow",
    "AlignerChatEngine",
    "AlignerFunctionAgent",
    "AlignerFunctionCallingLLM",
    "AlignerLLM",
    "AlignerNodePostprocessor",
    "AlignerQueryEngine",
    "AlignerReActAgent",
    "AlignerSynthesizer",
    "aalign_response",
    "align_response",
    "with_aligner",
]
