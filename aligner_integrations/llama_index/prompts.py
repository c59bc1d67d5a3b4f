"""What an LLM is asked for: an answer to the user's question, or something that only LlamaIndex reads.

Most of what LlamaIndex asks for itself shows by its kind: the type of its prompt, an output parser, no `query_str`. What is
listed here looks like a user's own question. A test walks through LlamaIndex and names what it has got since.

What lives elsewhere: correcting the answer (`llm.py`), and what the user's words are (`question.py`).
"""

from __future__ import annotations

import functools
import importlib
import re
from collections import ChainMap
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.prompt_type import PromptType

from aligner_integrations.llama_index.question import words_of

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

# What LlamaIndex puts only into prompts that want a query, a choice or a list: so it is, whoever wrote the prompt.
_NOT_FOR_ANSWERS = frozenset(
    {"schema", "schema_str", "dialect", "max_keywords", "num_choices", "tools_str", "prev_reasoning", "feedback"}
)

# Module by module, the prompts of LlamaIndex that look like a user's own. Older versions have not all of them.
NO_ANSWER = {
    "evaluation.context_relevancy": ("DEFAULT_EVAL_TEMPLATE", "DEFAULT_REFINE_TEMPLATE"),
    "evaluation.dataset_generation": ("DEFAULT_QUESTION_GENERATION_PROMPT",),
    "evaluation.faithfulness": ("DEFAULT_EVAL_TEMPLATE", "DEFAULT_REFINE_TEMPLATE"),
    "evaluation.multi_modal.faithfulness": ("DEFAULT_EVAL_TEMPLATE", "DEFAULT_REFINE_TEMPLATE"),
    "evaluation.multi_modal.relevancy": ("DEFAULT_EVAL_TEMPLATE", "DEFAULT_REFINE_TEMPLATE"),
    "evaluation.relevancy": ("DEFAULT_EVAL_TEMPLATE", "DEFAULT_REFINE_TEMPLATE"),
    "extractors.document_context": ("ORIGINAL_CONTEXT_PROMPT", "SUCCINCT_CONTEXT_PROMPT"),
    "indices.property_graph.sub_retrievers.llm_synonym": ("DEFAULT_SYNONYM_EXPAND_TEMPLATE",),
    "indices.query.query_transform.feedback_transform": ("DEFAULT_RESYNTHESIS_PROMPT_TMPL",),
    "indices.query.query_transform.prompts": (
        "DEFAULT_DECOMPOSE_QUERY_TRANSFORM_TMPL",
        "DEFAULT_IMAGE_OUTPUT_TMPL",
        "DEFAULT_STEP_DECOMPOSE_QUERY_TRANSFORM_TMPL",
    ),
    "memory.chat_summary_memory_buffer": ("SUMMARIZE_PROMPT",),
    "memory.memory_blocks.fact": ("DEFAULT_FACT_EXTRACT_PROMPT", "DEFAULT_FACT_CONDENSE_PROMPT"),
    "output_parsers.pydantic": ("PYDANTIC_FORMAT_TMPL",),
    "output_parsers.selection": ("FORMAT_STR",),
    "postprocessor.llm_rerank": ("CHAT_CONTENT_CHOICE_SELECT_PROMPT",),
    "postprocessor.node": ("DEFAULT_INFER_PREV_NEXT_TMPL", "DEFAULT_REFINE_INFER_PREV_NEXT_TMPL"),
    "postprocessor.pii": ("DEFAULT_PII_TMPL",),
    "prompts.chat_prompts": ("CHAT_REFINE_TABLE_CONTEXT_PROMPT",),
    "prompts.default_prompts": ("RANKGPT_RERANK_PROMPT_TMPL", "DEFAULT_CHOICE_SELECT_PROMPT_TMPL"),
    "query_engine.flare.base": ("DEFAULT_INSTRUCT_PROMPT_TMPL",),
    "query_engine.sql_join_query_engine": ("DEFAULT_SQL_AUGMENT_TRANSFORM_PROMPT_TMPL",),
}
# This one is written where it is used, around a prompt that may be the user's.
_CHUNK = "Here is the chunk we want to situate within the whole document:\n<chunk>{chunk}</chunk>\n"

_VARIABLE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{\w+\}")


def question_in(prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> str | None:
    """Return the user's words in a prompt; None if what is asked for is no answer to them.

    Args:
        prompt: The prompt, perhaps with some of its variables already in it.
        prompt_args: Its other variables.
    """
    if prompt.output_parser is not None or prompt.metadata.get("prompt_type", PromptType.CUSTOM) not in _ANSWERING:
        return None
    variables = ChainMap(prompt_args, prompt.kwargs)
    question = variables.get("query_str")
    if not isinstance(question, str) or not _NOT_FOR_ANSWERS.isdisjoint(variables):
        return None
    template = prompt.get_template()
    return None if any(_has(template, words) for words in _words_of_prompts()) else words_of(question)


def asks_for_no_answer(messages: Sequence[ChatMessage]) -> bool:
    """Whether messages to an LLM want something that only LlamaIndex reads.

    It asks by its last message or by a system message; what stands in between was said before.
    """
    asking = [message for message in messages[:-1] if message.role == MessageRole.SYSTEM]
    texts = (b.text for message in [*asking, *messages[-1:]] for b in message.blocks if isinstance(b, TextBlock))
    return any(map(_wants_no_answer, texts))


def _wants_no_answer(text: str) -> bool:
    """Whether what was said is one of the prompts that want no answer: it begins or ends with it.

    Only there, because a retrieved document that quotes one is not to keep an answer from being corrected.
    """
    text = text.strip()
    return any(
        (text.startswith(words[0]) or text.endswith(words[-1])) and _has(text, words) for words in _words_of_prompts()
    )


def _has(text: str, words: Sequence[str]) -> bool:
    """Whether a text has all these words in their order."""
    end = 0
    for piece in words:
        start = text.find(piece, end)
        if start < 0:
            return False
        end = start + len(piece)
    return True


@functools.cache
def _words_of_prompts() -> list[list[str]]:
    """Return what stands between the variables of each prompt that wants no answer."""
    prompts: list[Any] = [_CHUNK]
    for module, names in NO_ANSWER.items():
        found = importlib.import_module(f"llama_index.core.{module}")
        prompts += [getattr(found, name) for name in names if hasattr(found, name)]
    texts = [prompt if isinstance(prompt, str) else prompt.get_template() for prompt in prompts]
    return [[piece for piece in map(str.strip, _VARIABLE.split(text)) if piece] for text in texts]
