"""What a prompt asks an LLM for: an answer to the user's question, or something that only LlamaIndex reads.

What lives elsewhere: correcting the answer (`llm.py`).
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from llama_index.core.evaluation import context_relevancy, faithfulness, relevancy
from llama_index.core.indices.query.query_transform import feedback_transform
from llama_index.core.indices.query.query_transform import prompts as query_transform
from llama_index.core.postprocessor import llm_rerank, pii
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.query_engine import sql_join_query_engine
from llama_index.core.query_engine.flare import base as flare

from aligner_integrations.llama_index.response import words_of

# What LlamaIndex's own prompts with a query_str ask for; the others (SQL, decomposition, selection) want no answer.
_ANSWERING = frozenset(
    {
        PromptType.QUESTION_ANSWER,
        PromptType.REFINE,
        PromptType.SUMMARY,
        PromptType.SIMPLE_INPUT,
        PromptType.CONVERSATION,
        PromptType.SQL_RESPONSE_SYNTHESIS,
        PromptType.SQL_RESPONSE_SYNTHESIS_V2,
        PromptType.CUSTOM,
    }
)

_RERANK_MESSAGES = getattr(llm_rerank, "CHAT_CONTENT_CHOICE_SELECT_PROMPT", None)  # newer than 0.14.0

# Those of LlamaIndex that look like a user's own, and want a verdict, a query or a transformed text.
_NO_ANSWER = frozenset(
    {
        faithfulness.DEFAULT_EVAL_TEMPLATE.get_template(),
        faithfulness.DEFAULT_REFINE_TEMPLATE.get_template(),
        relevancy.DEFAULT_EVAL_TEMPLATE.get_template(),
        relevancy.DEFAULT_REFINE_TEMPLATE.get_template(),
        context_relevancy.DEFAULT_EVAL_TEMPLATE.get_template(),
        context_relevancy.DEFAULT_REFINE_TEMPLATE.get_template(),
        feedback_transform.DEFAULT_RESYNTHESIS_PROMPT_TMPL,
        query_transform.DEFAULT_STEP_DECOMPOSE_QUERY_TRANSFORM_TMPL,
        query_transform.DEFAULT_IMAGE_OUTPUT_TMPL,
        sql_join_query_engine.DEFAULT_SQL_AUGMENT_TRANSFORM_PROMPT_TMPL,
        flare.DEFAULT_INSTRUCT_PROMPT_TMPL,
        pii.DEFAULT_PII_TMPL,
        *([_RERANK_MESSAGES.get_template()] if _RERANK_MESSAGES is not None else []),
    }
)


def question_in(prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> str | None:
    """Return the user's words in a prompt; None if what is asked for is no answer to them.

    Args:
        prompt: The prompt, perhaps with some of its variables already in it.
        prompt_args: Its other variables.
    """
    if prompt.output_parser is not None or prompt.metadata.get("prompt_type", PromptType.CUSTOM) not in _ANSWERING:
        return None
    question = ChainMap(prompt_args, prompt.kwargs).get("query_str")
    if not isinstance(question, str) or prompt.get_template() in _NO_ANSWER:
        return None
    return words_of(question)
