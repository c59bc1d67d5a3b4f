"""Whose words are the question."""

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.memory import Memory, StaticMemoryBlock
from llama_index.core.schema import QueryBundle

from aligner_integrations.llama_index import AlignerQueryEngine
from aligner_integrations.llama_index.question import last_question, words_of
from tests.unit.llama_index.support import DRAFT, TEXTUAL, Engine, Recorder, make_aligner, read, response_of

IMAGE = ImageBlock(url="https://example.org/a.png")


def user(*blocks):
    return ChatMessage(role="user", blocks=[TextBlock(text=b) if isinstance(b, str) else b for b in blocks])


OLD = [user("An old one?"), ChatMessage(role="assistant", content="Yes.")]


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([*OLD, user("Is it?")], "Is it?"),
        ([*OLD, user("Is it?"), ChatMessage(role="tool", content="3")], "Is it?"),
        ([*OLD, user("Is it?", IMAGE)], "Is it?"),
        ([*OLD, user(IMAGE)], ""),  # never that of an older turn
        ([*OLD, ChatMessage(role="user")], ""),
        ([ChatMessage(role="system", content="Be brief.")], ""),
        ([], ""),
    ],
)
def test_the_last_message_of_the_user(messages, question):
    assert last_question(messages) == question


async def test_a_memory_puts_more_into_the_users_message():
    memory = Memory.from_defaults(
        memory_blocks=[StaticMemoryBlock(name="facts", static_content="Ann is 7.")], insert_method="user"
    )
    for message in (user("Is it?"), user(IMAGE)):
        await memory.areset()
        await memory.aput(message)
        messages = await memory.aget()
        assert "Ann is 7." in messages[-1].content
        assert last_question(messages) == (message.content or "")


def test_an_agents_state_and_a_retry():
    assert words_of("Current state:\n{'n': 1}\n\nCurrent message:\nIs it?\nOr not?\n") == "Is it?\nOr not?"
    assert words_of(QueryBundle("Is it?\n----------------\nHere is a previous bad answer.\nNo.")) == "Is it?"
    assert words_of("Current state: fine") == "Current state: fine"  # the user's own words


@pytest.mark.parametrize("kind", TEXTUAL)
async def test_an_answer_to_no_words_is_left_alone(ask, kind):
    fn = Recorder()
    response = await ask(AlignerQueryEngine(Engine(lambda query: response_of(kind, DRAFT)), make_aligner(fn)), "  ")
    assert "".join(await read(response)) == DRAFT and fn.prompts == []
    record = response.metadata["aligner"]
    assert (record["outcome"], record["reason"]) == ("skipped", "no_question")
