"""`AlignerNode` in plain LangGraph: the right message, in its place, and what a node comes too late for."""

import asyncio
import operator
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel

from aligner_integrations.errors import BackendError, ConfigurationError, InvalidTextError, QuestionNotFoundError
from aligner_integrations.langchain import AlignedChatModel, AlignerNode
from tests.unit.langchain.agents.support import ASKED, CANARY, FINAL, Script, call, counted, kind
from tests.unit.langchain.listening import thread
from tests.unit.langchain.support import aligner
from tests.unit.langchain.test_correction_run import Runs


class Counting(MessagesState):
    steps: Annotated[int, operator.add]


def graph(schema=MessagesState, node=None, said=None, saver=None, key="messages"):
    builder = StateGraph(schema)
    builder.add_node("llm", lambda state: {key: [said or AIMessage(FINAL)]})
    builder.add_node("align", node or AlignerNode(aligner(kind)))
    builder.add_edge(START, "llm")
    builder.add_edge("llm", "align")
    builder.add_edge("align", END)
    return builder.compile(checkpointer=saver)


def both(app, value=ASKED):
    yield app.invoke(value)
    yield asyncio.run(app.ainvoke(value))


def record(message):
    return message.response_metadata["aligner"]


def test_the_answer_is_corrected_in_its_place():
    for state in both(graph(said=AIMessage(FINAL, id="msg-1", name="n"))):
        human, answer = state["messages"]
        assert human.text == ASKED["messages"] and answer.text == kind("||" + FINAL)
        assert (answer.id, answer.name) == ("msg-1", "n")
        assert record(answer)["outcome"] == "corrected" and record(answer)["question_from"] == "messages"


def test_only_the_message_is_written():
    for state in both(graph(Counting), {**ASKED, "steps": 1}):
        assert state["steps"] == 1 and len(state["messages"]) == 2


def test_states_that_are_objects_and_other_keys():
    @dataclass
    class AsDataclass:
        messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)

    class AsModel(BaseModel):
        messages: Annotated[list[AnyMessage], add_messages]

    class Elsewhere(TypedDict):
        talk: Annotated[list[AnyMessage], add_messages]

    for schema in (AsDataclass, AsModel):
        for state in both(graph(schema)):
            assert state["messages"][-1].text == kind("||" + FINAL)
    for state in both(graph(Elsewhere, AlignerNode(aligner(kind), messages_key="talk"), key="talk"), {"talk": "x"}):
        assert state["talk"][-1].text == kind("||" + FINAL)


def test_left_alone():
    fn, prompts = counted()
    said = AIMessage(FINAL, tool_calls=[call("lookup", city="Oslo")])
    for state in both(graph(node=AlignerNode(aligner(fn)), said=said)):
        assert state["messages"][-1].text == FINAL and record(state["messages"][-1])["reason"] == "tool_calls"
        assert state["messages"][-1].tool_calls
    assert not prompts


def test_options():
    def whole(messages):
        return " / ".join(message.text for message in messages)

    node = AlignerNode(aligner(lambda p: p.partition("||")[0]), question=whole, include_original=True, name="align it")
    for state in both(graph(node=node), {"messages": [("human", "one"), ("ai", "hm"), ("human", "two")]}):
        assert state["messages"][-1].text == "one / hm / two" and record(state["messages"][-1])["original"] == FINAL
    assert node.get_name() == "align it" and AlignerNode(on_error="keep").aligner.policy.on_error == "keep"
    with pytest.raises(ConfigurationError, match="got str"):
        AlignerNode("aligner/aligner-7b-v1.0")


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"messages": [HumanMessage("x", id="1")]}, InvalidTextError, "is a HumanMessage"),
        ({"messages": [HumanMessage("x"), AIMessage("y")]}, ConfigurationError, "reducer add_messages"),
        ({"messages": [AIMessage("y", id="1")]}, QuestionNotFoundError, "no text in the messages"),
        ({"messages": []}, InvalidTextError, "no messages under 'messages'"),
        ({}, InvalidTextError, "messages_key="),
        (object(), InvalidTextError, "messages_key="),
    ],
)
def test_states_it_cannot_work_on(state, error, message):
    with pytest.raises(error, match=message):
        AlignerNode(aligner()).invoke(state)


def test_policies_and_runs():
    def broken(prompt):
        raise ValueError("cannot do that")

    with pytest.raises(BackendError, match="cannot do that"):
        graph(node=AlignerNode(aligner(broken))).invoke(ASKED)
    for state in both(graph(node=AlignerNode(aligner(broken, on_error="block")))):
        assert state["messages"][-1].text == aligner().policy.block_message
    seen = Runs()
    graph().invoke(ASKED, {"callbacks": [seen]})
    (run,) = seen.named("correction")
    assert seen.runs[run["parent"]]["name"] == "AlignerNode" and run["inputs"]["answer"] == FINAL


async def test_many_at_once():
    node = AlignerNode(aligner(lambda prompt: prompt.replace("||", ": ")))
    app = graph(node=node)
    states = await asyncio.gather(*(app.ainvoke({"messages": f"Question {i}?"}) for i in range(50)))
    assert [s["messages"][-1].text for s in states] == [f"Question {i}?: {FINAL}" for i in range(50)]


def test_what_a_node_comes_too_late_for_and_the_way_round():
    """As the docstring says: the raw answer is in updates, messages and checkpoints before; around the LLM it is not."""
    app = graph(saver=InMemorySaver())
    assert CANARY in repr(list(app.stream(ASKED, thread("1"), stream_mode="updates")))
    messages = list(app.stream(ASKED, thread("2"), stream_mode="messages"))
    assert CANARY in repr(messages) and "kind" not in repr(messages)
    assert CANARY in repr(list(app.get_state_history(thread("2"))))

    model = AlignedChatModel(llm=Script(turns=[AIMessage(FINAL)]), aligner=aligner(kind))
    builder = StateGraph(MessagesState)
    builder.add_node("llm", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "llm")
    builder.add_edge("llm", END)
    app = builder.compile(checkpointer=InMemorySaver())
    for mode in ("updates", "messages", "values", "debug"):
        events = repr(list(app.stream(ASKED, thread(mode), stream_mode=mode)))
        assert "kind" in events and CANARY not in events + repr(list(app.get_state_history(thread(mode))))
