"""A blocked answer shows none of its words, whatever carried them: in no message, state, stream, event or checkpoint."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from aligner_integrations import AlignedChatModel
from aligner_integrations.langchain import AlignerMiddleware, AlignerNode
from tests.unit.langchain.agents.support import Script, call
from tests.unit.langchain.listening import WAYS, stored, thread
from tests.unit.langchain.provider_messages import ANSWER, MESSAGES, RAW, USAGE, text
from tests.unit.langchain.support import PROMPT, aligner, astreamed, called, step, total

pytestmark = [
    pytest.mark.filterwarnings("ignore:The v3 streaming protocol"),
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
]

# Everything of a message that may carry words.
SPEAKING = AIMessage(
    [{"type": "reasoning", "reasoning": "RAW plan"}, text("RAW preamble"), {"type": "x", "x": RAW}, text(ANSWER)],
    additional_kwargs={
        "reasoning_content": RAW,
        "reasoning": {"summary": [{"text": RAW}]},
        "audio": {"transcript": RAW},
        "refusal": None,
        "unheard_of": RAW,
    },
    response_metadata={
        "model_name": "m",
        "finish_reason": "stop",
        "id": "resp_1",
        "output_version": "v1",
        "logprobs": {"content": [{"token": RAW}]},
        "candidates": [RAW],
        "citations": [RAW],
    },
    usage_metadata=USAGE,
    further_field=RAW,
)
POLICIES = ["on_error", "on_reject"]
WITHHELD = "It was withheld."
MODEL_WAYS = ["invoke", "ainvoke", "batch", "stream", "astream"]


def blocking(policy):
    if policy == "on_reject":
        return aligner(lambda p: "good", accept=lambda q, a, c: False, on_reject="block", block_message=WITHHELD)
    return aligner(lambda prompt: 1 / 0, on_error="block", block_message=WITHHELD)


class Says(BaseChatModel):
    """Says one message, at once and with its generation's info."""

    message: AIMessage = SPEAKING

    @property
    def _llm_type(self):
        return "says"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        info = {"finish_reason": "stop", "logprobs": RAW, "message": {"content": RAW}}
        return ChatResult(generations=[ChatGeneration(message=self.message.model_copy(), generation_info=info)])


def check(message):
    assert RAW not in repr(message) and message.text == WITHHELD
    assert message.response_metadata["aligner"]["outcome"] in ("failed", "rejected")
    assert message.usage_metadata == USAGE
    assert not message.additional_kwargs and message.content in (WITHHELD, [text(WITHHELD, index=0)])
    assert {*message.response_metadata} <= {"aligner", "model_name", "finish_reason"}


class Heard(BaseCallbackHandler):
    def __init__(self):
        self.events = []

    def on_llm_new_token(self, token, **kwargs):
        self.events.append((token, kwargs["chunk"]))

    def on_llm_end(self, response, **kwargs):
        self.events.append(response)


@pytest.mark.parametrize("way", MODEL_WAYS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_model(policy, way):
    heard = Heard()
    model = AlignedChatModel(llm=Says(), aligner=blocking(policy), callbacks=[heard])
    chunks = []
    if way == "stream":
        chunks = list(model.stream("Why?"))
    elif way == "astream":
        chunks = asyncio.run(astreamed(model, "Why?"))
    elif way == "ainvoke":
        chunks = [asyncio.run(model.ainvoke("Why?"))]
    else:
        chunks = [model.invoke("Why?") if way == "invoke" else model.batch(["Why?"])[0]]
    check(total(chunks))
    assert RAW not in repr(chunks) + repr(heard.events) and heard.events


@pytest.mark.parametrize("policy", POLICIES)
def test_generations_of_a_model(policy):
    (generation,) = (
        AlignedChatModel(llm=Says(), aligner=blocking(policy)).generate([[HumanMessage("Why?")]]).generations[0]
    )
    check(generation.message)
    assert generation.generation_info == {"finish_reason": "stop"} and generation.text == WITHHELD


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_of_a_chain(policy):
    chain = PROMPT | Says() | step()
    chain.last.aligner = blocking(policy)
    for message in called(chain, {"q": "Why?"}):
        check(message)
    for chunks in (list(chain.stream({"q": "Why?"})), asyncio.run(astreamed(chain, {"q": "Why?"}))):
        check(total(chunks))
        assert RAW not in repr(chunks)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES)
def test_an_agent(policy, way):
    agent = create_agent(
        Script(turns=[SPEAKING]), middleware=[AlignerMiddleware(blocking(policy))], checkpointer=InMemorySaver()
    )
    events = WAYS[way](agent, {"messages": "Why?"}, thread())
    assert RAW not in repr(events) + stored(agent.checkpointer)
    check(agent.get_state(thread()).values["messages"][-1])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_node(policy):
    message = SPEAKING.model_copy(update={"id": "m"})
    (after,) = AlignerNode(blocking(policy)).invoke({"messages": [HumanMessage("Why?"), message]})["messages"]
    check(after)
    assert after.id == "m"


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_shape_of_a_provider(policy, name):
    runnable = step()
    runnable.aligner = blocking(policy)
    value = {"question": "Why?", "answer": MESSAGES[name]}
    for after in (
        *called(runnable, value),
        total(runnable.stream(value)),
        total(asyncio.run(astreamed(runnable, value))),
    ):
        assert after["answer"].text == WITHHELD and RAW not in repr(after)
        assert RAW not in repr(after["answer"].content_blocks)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (f"<think>RAW plan</think>{ANSWER}", WITHHELD),
        (("ai", f"<think>RAW plan</think>{ANSWER}"), ("ai", WITHHELD)),
        ([{"type": "thinking", "thinking": RAW}, text(ANSWER)], [text(WITHHELD)]),
        (
            {
                "role": "assistant",
                "content": ANSWER,
                "name": "n",
                "reasoning_content": RAW,
                "audio": {"transcript": RAW},
            },
            {"role": "assistant", "content": WITHHELD, "name": "n"},
        ),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_answers_that_are_no_messages(policy, value, wanted):
    runnable = step(question=lambda messages: "Why?")
    runnable.aligner = blocking(policy)
    chain = PROMPT | Says() | (lambda message: value) | runnable
    assert list(called(chain, {"q": "Why?"})) == [wanted] * 4
    assert total(chain.stream({"q": "Why?"})) == wanted


def test_a_message_in_its_role_and_content_form_keeps_its_fields_else():
    value = {"role": "assistant", "content": ANSWER, "reasoning_content": RAW, "response_metadata": {"model_name": "m"}}
    after = step(lambda prompt: "good").invoke([{"role": "user", "content": "Why?"}, value])[-1]
    record = after["response_metadata"].pop("aligner")
    assert after == {**value, "content": "good"} and record["outcome"] == "corrected"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tools_result(policy):
    @tool(response_format="content_and_artifact")
    def look(x: int):
        """Look."""
        return f"RAW {x}", {"found": RAW}

    turns = [AIMessage("", tool_calls=[call("look", x=1)]), AIMessage("Done.")]
    middleware = AlignerMiddleware(blocking(policy), align=None, tools=["look"])
    agent = create_agent(Script(turns=turns), [look], middleware=[middleware], checkpointer=InMemorySaver())
    events = WAYS["astream-list-0"](agent, {"messages": "Why?"}, thread())
    assert RAW not in repr(events) + stored(agent.checkpointer)
    assert agent.get_state(thread()).values["messages"][2].text == WITHHELD


def test_calls_that_could_not_be_read_go_with_a_blocked_answer():
    bad = {"name": "look", "args": '{"x": "RAW', "id": "1", "error": RAW, "type": "invalid_tool_call"}
    model = Script(turns=[AIMessage(ANSWER, invalid_tool_calls=[bad])])
    agent = create_agent(model, middleware=[AlignerMiddleware(blocking("on_error"))])
    message = agent.invoke({"messages": "Why?"})["messages"][-1]
    assert RAW not in repr(message) and not message.invalid_tool_calls


def test_the_words_in_place_of_an_answer_may_be_an_aligners_own():
    """A piece that reads like the block message is shown like any other once it is known to be none."""
    runnable = step(lambda prompt: f"{WITHHELD} So it is.")
    runnable.aligner = aligner(lambda prompt: f"{WITHHELD} So it is.", block_message="It")
    said = AIMessage([{"type": "reasoning", "reasoning": "plan"}, text("No.")])
    chunks = [c["answer"] for c in runnable.stream({"question": "Why?", "answer": said}) if "answer" in c]
    assert [type(chunk) for chunk in chunks] == [AIMessageChunk] * len(chunks) and len(chunks) > 3
    assert total(chunks).text == f"{WITHHELD} So it is." and total(chunks).content[0]["reasoning"] == "plan"
