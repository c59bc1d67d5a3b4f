"""Whose words are the question: the user's last message, without what LlamaIndex has put around it.

LlamaIndex hands a question on with more words: those of a retry engine, of a memory, of an agent's state. They are for the
upstream; an aligner that took them for the question would answer to them.

What lives elsewhere: whether a prompt asks for an answer at all (`prompts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import QueryType

# How LlamaIndex's retry engines ask again: with the answer that failed after the user's words, or before them.
_FAILED = "Here is a previous bad answer.\n"
_AFTER, _BEFORE = f"\n----------------\n{_FAILED}", "\nNow answer the question.\n"
# What `Memory(insert_method="user")` puts before the user's words, and an agent with a state around them.
_MEMORY = re.compile(r"\A\s*<memory>.*?</memory>\s*", re.DOTALL)
_STATE = re.compile(r"\ACurrent state:\n.*?\n\nCurrent message:\n(.*?)\n?\Z", re.DOTALL)


def words_of(query: QueryType) -> str:
    """Return the user's words in what an engine or an LLM is asked.

    LlamaIndex's own engines also take a plain string where they declare a QueryBundle.
    """
    words = query if isinstance(query, str) else query.query_str
    if state := _STATE.match(words):
        words = state[1]
    words = _MEMORY.sub("", words)
    if words.startswith(_FAILED):
        words = words.rpartition(_BEFORE)[2]
    return words.partition(_AFTER)[0]


def last_question(messages: Sequence[ChatMessage]) -> str:
    """Return the words of the user's last message; empty if it has none, such as an image, or if there is no message.

    Never those of an older message: the answer is to the last one.
    """
    last = next((message for message in reversed(messages) if message.role == MessageRole.USER), None)
    return "" if last is None else words_of(last.content or "")
