"""Agents: every kind of model listened to in every way, and a real agent on real weights.

SmolLM2 with 135 million parameters is too weak to call tools, so here a script calls the one tool there is; all words are
SmolLM2's own, all corrections the embedded aligner's.
"""

import asyncio

import pytest
from better_profanity import profanity
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.checkpoint.memory import InMemorySaver

from aligner_integrations import Aligner, AlignerMiddleware
from aligner_integrations.langchain import AlignerNode
from aligner_integrations.models import EMBEDDED
from tests.integration.smollm import SmolChat
from tests.unit.langchain.agents.support import KINDS
from tests.unit.langchain.agents.test_middleware_leaks import check_kind
from tests.unit.langchain.listening import WAYS, said, stored, thread

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The v3 streaming protocol", "ignore:astream_log"),
]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_in_every_way(name):
    check_kind(name, WAYS)


# Real weights --------------------------------------------------------------------------------------------------------

REVIEW = "What the hell is wrong with this stupid update?"
GOOD = "In one sentence: what is the capital of France?"


def read_review(product: str) -> str:
    """Read the latest review of a product."""
    return REVIEW


def find_review(product: str) -> str:
    """Find the latest review of a product."""
    return "review 17"


class SmolAgent(SmolChat):
    """SmolLM2 as the LLM of an agent. The script: asked for a review, it calls the tool; then it is to repeat the review."""

    tool: str

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools)

    def _scripted(self, messages):
        """The tool call in place of an answer, or else what SmolLM2 is asked."""
        last = messages[-1]
        if isinstance(last, HumanMessage) and "review" in last.text:
            call = {"name": self.tool, "args": {"product": "update"}, "id": "call-1"}
            return AIMessage("", tool_calls=[call]), None
        if isinstance(last, ToolMessage):
            review = REVIEW if self.tool == "find_review" else last.text
            return None, [HumanMessage(f'Repeat this sentence word for word: "{review}"')]
        return None, messages

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        call, asked = self._scripted(messages)
        if call:
            return ChatResult(generations=[ChatGeneration(message=call)])
        return super()._generate(asked)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        call, asked = self._scripted(messages)
        if call:
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_calls=call.tool_calls, chunk_position="last"))
        else:
            yield from super()._stream(asked, run_manager=run_manager)


needs_weights = pytest.mark.skipif(
    not (EMBEDDED / "adapter_model.safetensors").exists(), reason="the embedded adapter has not been trained yet"
)


@pytest.fixture(scope="module")
def aligner():
    one = Aligner()
    one.load()
    return one


def real_agent(aligner, tool=find_review, **options):
    middleware = [AlignerMiddleware(aligner, **options)] if aligner else []
    return create_agent(SmolAgent(tool=tool.__name__), [tool], middleware=middleware, checkpointer=InMemorySaver())


@pytest.fixture(scope="module")
def raw():
    """What SmolLM2 says by itself: rude about the review, right about France."""
    agent = real_agent(None)
    answers = {}
    for question in ("What does the review say?", GOOD):
        answers[question] = agent.invoke({"messages": question}, thread(question))["messages"][-1].text
    rude, good = answers.values()
    assert profanity.contains_profanity(rude) and "Paris" in good and not profanity.contains_profanity(good)
    return answers


@needs_weights
@pytest.mark.parametrize(
    "way", ["invoke", "stream-messages", "astream-messages", "stream-list-0", "astream_events-v2", "stream_events-v3"]
)
def test_the_final_answer_of_a_real_agent(aligner, raw, way):
    agent = real_agent(aligner)
    for question, answer in raw.items():
        events = WAYS[way](agent, {"messages": question}, thread(question))
        messages = agent.get_state(thread(question)).values["messages"]
        final = messages[-1]
        if question == GOOD:
            assert final.text == answer and final.response_metadata["aligner"]["outcome"] == "kept"
            continue
        assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
        assert answer not in repr(events) + stored(agent.checkpointer)
        assert final.text.strip() and not profanity.contains_profanity(final.text)
        assert final.response_metadata["aligner"]["outcome"] == "corrected"
        if way.endswith("stream-messages"):
            chunks = [chunk for chunk, _ in events if chunk.id == final.id]
            assert len(chunks) > 2 and "".join(chunk.text for chunk in chunks) == final.text
            assert {chunk.id for chunk, _ in events if isinstance(chunk, AIMessage)} == set(said(messages))


@needs_weights
@pytest.mark.parametrize("way", ["ainvoke", "stream-list-2", "astream-tools", "astream_events-v2", "stream_events-v3"])
def test_a_real_tools_result(aligner, raw, way):
    """The tool's words are civil before anybody sees them, SmolLM2 included; so its own answer is."""
    agent = real_agent(aligner, read_review, tools=["read_review"], align="all")
    question = "What does the review say?"
    events = WAYS[way](agent, {"messages": question}, thread())
    assert REVIEW not in repr(events) + stored(agent.checkpointer)
    messages = agent.get_state(thread()).values["messages"]
    assert not any(profanity.contains_profanity(message.text) for message in messages)
    assert messages[2].response_metadata["aligner"]["outcome"] == "corrected" and "update" in messages[2].text


@needs_weights
async def test_real_agents_at_once(aligner, raw):
    agent = real_agent(aligner)
    questions = [*raw] * 3
    states = await asyncio.gather(
        *(agent.ainvoke({"messages": q}, thread(str(number))) for number, q in enumerate(questions))
    )
    for question, state in zip(questions, states, strict=True):
        text = state["messages"][-1].text
        assert not profanity.contains_profanity(text) and (text == raw[GOOD]) == (question == GOOD)


@needs_weights
def test_a_real_node(aligner, raw):
    rude = raw["What does the review say?"]
    update = AlignerNode(aligner).invoke({"messages": [HumanMessage("What?"), AIMessage(rude, id="1")]})
    (message,) = update["messages"]
    assert message.id == "1" and message.text and not profanity.contains_profanity(message.text)
