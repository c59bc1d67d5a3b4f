"""What LlamaIndex asks an LLM for: a walk through its prompts and through those who ask, so that a new one is seen.

A test that fails here names what this LlamaIndex has and the table of `prompts.py` (or of this file) does not: look whether it
wants an answer to the user's question, and put it where it belongs.
"""

import ast
import importlib
import pkgutil
from pathlib import Path

import llama_index.core
import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.memory.chat_summary_memory_buffer import SUMMARIZE_PROMPT
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate, SelectorPromptTemplate
from llama_index.core.prompts.utils import get_template_vars

from aligner_integrations.llama_index.prompts import NO_ANSWER, asks_for_no_answer, question_in
from tests.unit.llama_index.support import QUESTION

# The prompts with a query_str that want an answer, by the names of their constants.
ANSWERS = {
    "CHAT_CONTENT_QA_PROMPT",
    "CHAT_CONTENT_REFINE_PROMPT",
    "CHAT_CONTENT_TREE_SUMMARIZE_PROMPT",
    "CHAT_REFINE_PROMPT",
    "CHAT_SIMPLE_INPUT_PROMPT",
    "CHAT_TEXT_QA_PROMPT",
    "CHAT_TREE_SUMMARIZE_PROMPT",
    "CITATION_CHAT_CONTENT_QA_TEMPLATE",
    "CITATION_CHAT_CONTENT_REFINE_TEMPLATE",
    "CITATION_QA_TEMPLATE",
    "CITATION_REFINE_TEMPLATE",
    "DEFAULT_KG_RESPONSE_ANSWER_PROMPT",
    "DEFAULT_REFINE_PROMPT",
    "DEFAULT_RESPONSE_SYNTHESIS_PROMPT",
    "DEFAULT_RESPONSE_SYNTHESIS_PROMPT_V2",
    "DEFAULT_SIMPLE_INPUT_PROMPT",
    "DEFAULT_SQL_JOIN_SYNTHESIS_PROMPT",
    "DEFAULT_SQL_VECTOR_SYNTHESIS_PROMPT",
    "DEFAULT_TEXT_QA_PROMPT",
    "DEFAULT_TREE_SUMMARIZE_PROMPT",
}
# Strings with a query_str that are no prompts of an LLM (embedded, asked of an index, the text of a node), or are given to one
# only as a prompt with a type.
OTHER_STRINGS = {
    "DEFAULT_CONTEXT_QUERY_TMPL",
    "DEFAULT_MULTI_PYD_SELECT_PROMPT_TMPL",
    "DEFAULT_MULTI_SELECT_PROMPT_TMPL",
    "DEFAULT_QUERY_EMBEDDING_TMPL",
    "DEFAULT_QUERY_RESPONSE_TMPL",
    "DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL",
    "DEFAULT_SINGLE_SELECT_PROMPT_TMPL",
    "DEFAULT_SUB_QUESTION_PROMPT_TMPL",
    "DEFAULT_VECTOR_STORE_QUERY_PROMPT_TMPL",
    "SUFFIX",
}
# Who asks an LLM through chat. An answer, or something that a prompt in the table of `prompts.py` shows to be none.
CHATS = {
    "agent/utils.py",  # through as_structured_llm
    "agent/workflow/base_agent.py",
    "agent/workflow/codeact_agent.py",
    "agent/workflow/multi_agent_workflow.py",
    "agent/workflow/react_agent.py",
    "chat_engine/multi_modal_condense_plus_context.py",
    "chat_engine/multi_modal_context.py",
    "chat_engine/simple.py",
    "evaluation/multi_modal/faithfulness.py",  # no answer
    "evaluation/multi_modal/relevancy.py",  # no answer
    "extractors/document_context.py",  # no answer
    "memory/chat_summary_memory_buffer.py",  # no answer
    "memory/memory_blocks/fact.py",  # no answer
    "postprocessor/rankGPT_rerank.py",  # no answer
    "program/llm_program.py",  # no answer
    "program/multi_modal_llm_program.py",  # no answer
    "query_engine/multi_modal.py",
}
ROOT = Path(llama_index.core.__file__).parent


def constants():
    """Every prompt and every string in a constant of LlamaIndex: its name, its text, whether it is a prompt."""
    for module in pkgutil.walk_packages(llama_index.core.__path__, "llama_index.core."):
        if any(part in module.name for part in ("langchain", "pydantic_settings", "core.workflow.")):
            continue  # they need more than LlamaIndex
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, SelectorPromptTemplate):
                for prompt in (value.default_template, *(prompt for _, prompt in value.conditionals)):
                    yield name, prompt
            elif isinstance(value, BasePromptTemplate) or (isinstance(value, str) and name.isupper()):
                yield name, value


@pytest.fixture(scope="module")
def found():
    return list(constants())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_prompt_that_would_be_corrected_wants_an_answer(found):
    corrected = {
        name
        for name, prompt in found
        if isinstance(prompt, BasePromptTemplate)
        and question_in(prompt, {"query_str": QUESTION}) is not None
        # Without a query_str of its own it is given none.
        and ("query_str" in prompt.template_vars or "query_str" in prompt.get_template())
    }
    listed = {prompt.get_template() for name, prompt in found if name in ANSWERS and not isinstance(prompt, str)}
    selectors = {name for name in corrected if name.endswith("_SEL")}
    texts = {p.get_template() for name, p in found if name in selectors and not isinstance(p, str)}
    assert texts <= listed, f"New in a selector of this LlamaIndex, answer or not? {texts - listed}"
    assert corrected - selectors <= ANSWERS, f"New in this LlamaIndex, answer or not? {corrected - selectors - ANSWERS}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_string_that_would_be_corrected_as_a_prompt_wants_an_answer(found):
    """Some prompts are made of a string only when they are used, and have no type then."""
    answers = {prompt.get_template() for name, prompt in found if name in ANSWERS and not isinstance(prompt, str)}
    typed = {
        prompt.get_template()
        for _, prompt in found
        if not isinstance(prompt, str) and question_in(prompt, {"query_str": QUESTION}) is None
    }
    corrected = {
        name
        for name, text in found
        if isinstance(text, str)
        and "query_str" in get_template_vars(text.replace("{{", "").replace("}}", ""))
        and text not in answers | typed
        and question_in(PromptTemplate(text), {"query_str": QUESTION}) is not None
    }
    assert corrected <= OTHER_STRINGS, f"New in this LlamaIndex, answer or not? {corrected - OTHER_STRINGS}"


def test_everyone_who_asks_through_chat_is_known():
    asking = set()
    for path in ROOT.rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        if where.startswith(("llms/", "base/", "chat_engine/types.py")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                verb, whose = node.func.attr, ast.unparse(node.func.value)
                if verb in ("chat", "achat", "stream_chat", "astream_chat") and "llm" in whose:
                    asking.add(where)
    assert len(asking) > 10
    assert asking <= CHATS, f"New in this LlamaIndex: what do they ask for? {asking - CHATS}"


def test_the_table_names_nothing_that_is_not_there():
    newest = hasattr(
        importlib.import_module("llama_index.core.postprocessor.llm_rerank"), "CHAT_CONTENT_CHOICE_SELECT_PROMPT"
    )
    missing = [
        f"{module}.{name}"
        for module, names in NO_ANSWER.items()
        for name in names
        if not hasattr(importlib.import_module(f"llama_index.core.{module}"), name)
    ]
    assert missing == [] if newest else missing


def test_a_retrieved_document_cannot_say_that_no_answer_is_wanted():
    system = ChatMessage(role="system", content=f"Use this context.\n{SUMMARIZE_PROMPT}\nBe brief.")
    assert not asks_for_no_answer([system, ChatMessage(role="user", content=QUESTION)])
    said = ChatMessage(role="user", content=SUMMARIZE_PROMPT)
    assert not asks_for_no_answer([said, ChatMessage(role="user", content=QUESTION)])  # that was asked before
    assert asks_for_no_answer(
        [ChatMessage(role="user", blocks=[TextBlock(text="x"), TextBlock(text=SUMMARIZE_PROMPT)])]
    )
    assert not asks_for_no_answer([])


@pytest.mark.parametrize("variable", ["schema", "max_keywords", "num_choices", "tools_str"])
def test_a_prompt_of_the_users_own_for_something_else(variable):
    prompt = PromptTemplate(f"{{query_str}} {{{variable}}}")
    assert question_in(prompt, {"query_str": QUESTION, variable: "x"}) is None
    assert question_in(prompt.partial_format(**{variable: "x"}), {"query_str": QUESTION}) is None
    assert question_in(PromptTemplate("{query_str}"), {"query_str": QUESTION}) == QUESTION
