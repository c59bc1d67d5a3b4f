"""`with_aligner`: puts an aligner behind whatever it is given, or says why that cannot be done."""

from __future__ import annotations

from typing import Any, overload

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.tools import BaseTool
from llama_index.core.workflow import Workflow

from aligner_integrations.aligner import Aligner
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.llama_index.chat_engine import AlignerChatEngine
from aligner_integrations.llama_index.llm import AlignerFunctionCallingLLM, AlignerLLM
from aligner_integrations.llama_index.query_engine import AlignerQueryEngine
from aligner_integrations.llama_index.synthesizer import AlignerSynthesizer

_OTHER_WAYS = (
    (BaseIndex, "An index does not answer by itself: give index.as_query_engine() or index.as_chat_engine()."),
    (BaseRetriever, "A retriever finds nodes: AlignerNodePostprocessor corrects their text."),
    (FunctionAgent, "An agent is made with its aligner: AlignerFunctionAgent takes what FunctionAgent takes."),
    (ReActAgent, "An agent is made with its aligner: AlignerReActAgent takes what ReActAgent takes."),
    (
        AgentWorkflow,
        "In an AgentWorkflow each agent has its aligner: AlignerFunctionAgent and AlignerReActAgent, in an "
        "AlignerAgentWorkflow if early_stopping_method is 'generate'.",
    ),
    (
        BaseWorkflowAgent,
        "Only FunctionAgent and ReActAgent have an aligned twin; or give this agent's tools an aligner.",
    ),
    (BaseTool, "A tool is corrected where it answers: put the aligner around the query engine of a QueryEngineTool."),
    (Workflow, "A workflow has its own steps: call aalign_response in the one that answers."),
)


@overload
def with_aligner(x: BaseQueryEngine, aligner: Aligner | None = None, **options: Any) -> AlignerQueryEngine: ...
@overload
def with_aligner(x: BaseChatEngine, aligner: Aligner | None = None, **options: Any) -> AlignerChatEngine: ...
@overload
def with_aligner(x: BaseSynthesizer, aligner: Aligner | None = None, **options: Any) -> AlignerSynthesizer: ...
@overload
def with_aligner(x: LLM, aligner: Aligner | None = None, **options: Any) -> AlignerLLM: ...


def with_aligner(x: Any, aligner: Aligner | None = None, **options: Any) -> Any:
    """Put an aligner behind a query engine, a chat engine, a response synthesizer or an LLM.

    Args:
        x: What answers.
        aligner: Corrects the answers. Default: `Aligner()`.
        **options: Those of the wrapper: `citations`, `include_original` and so on.

    Returns:
        The wrapper: `AlignerQueryEngine`, `AlignerChatEngine`, `AlignerSynthesizer`, `AlignerLLM` or
        `AlignerFunctionCallingLLM`.

    Raises:
        ConfigurationError: There is no wrapper for this; the message says what to do instead.
    """
    if isinstance(x, BaseQueryEngine):
        return AlignerQueryEngine(x, aligner, **options)
    if isinstance(x, BaseChatEngine):
        return AlignerChatEngine(x, aligner, **options)
    if isinstance(x, BaseSynthesizer):
        return AlignerSynthesizer(x, aligner, **options)
    if isinstance(x, FunctionCallingLLM):
        return AlignerFunctionCallingLLM(llm=x, aligner=aligner, **options)  # type: ignore[arg-type]  # its own __init__ takes None
    if isinstance(x, LLM):
        return AlignerLLM(x, aligner, **options)
    for kind, way in _OTHER_WAYS:
        if isinstance(x, kind):
            raise ConfigurationError(f"with_aligner cannot wrap {type(x).__name__}. {way}")
    raise ConfigurationError(
        f"with_aligner cannot wrap {type(x).__name__}; it takes a query engine, a chat engine, a response synthesizer or "
        "an LLM of LlamaIndex."
    )
