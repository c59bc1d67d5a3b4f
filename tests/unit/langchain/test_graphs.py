"""In LangGraph: nodes, fan-outs, histories, subgraphs, the functional API, streams, agents."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send

from tests.unit.langchain.support import Upstream, held, step, text, want


@pytest.fixture(autouse=True)
def nothing_left():
    assert held() == 0
    yield
    assert held() == 0


class State(TypedDict):
    q: str
    answer: str


def graph(*nodes):
    builder = StateGraph(State)
    names = [f"n{i}" for i in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for start, end in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(start, end)
    return builder.compile()


def test_aligner_in_the_node_of_the_llm_and_in_the_next_one():
    llm = Upstream(delay=0.002)
    questions = [str(i) for i in range(30)]

    async def both(state):
        return {"answer": await step().ainvoke((await llm.ainvoke(state["q"])).text)}

    async def ask(state):
        return {"answer": (await llm.ainvoke(state["q"])).text}

    async def align(state):
        return {"answer": await step().ainvoke(state["answer"])}

    async def run(compiled):
        return await asyncio.gather(*(compiled.ainvoke({"q": q}) for q in questions))

    for compiled in (graph(both), graph(ask, align), graph(ask, lambda s: {"answer": step().invoke(s["answer"])})):
        assert [r["answer"] for r in asyncio.run(run(compiled))] == [want(q) for q in questions]


@pytest.mark.parametrize("mode", ["values", "updates"])
def test_streamed_graph(mode):
    compiled = graph(
        lambda s: {"answer": Upstream().invoke(s["q"]).text}, lambda s: {"answer": step().invoke(s["answer"])}
    )
    chunks = list(compiled.stream({"q": "x"}, stream_mode=mode))
    last = chunks[-1] if mode == "values" else chunks[-1]["n1"]
    assert last["answer"] == want("x")


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
def test_events_of_a_graph_in_their_third_version():
    """LangGraph then turns a message's text into a list of blocks."""
    compiled = graph(lambda s: {"answer": Upstream().invoke(s["q"])}, lambda s: {"answer": step().invoke(s["answer"])})
    output = compiled.stream_events({"q": "x"}, version="v3").output
    assert output["answer"].text == want("x")
    assert output["answer"].response_metadata["aligner"]["question_from"] == "id"


def test_fan_out_with_send():

    class Fan(TypedDict):
        qs: list[str]
        out: Annotated[list[Any], operator.add]

    def work(state):
        return {"out": [(state["q"], step().invoke(Upstream(delay=0.002).invoke(state["q"]).text))]}

    builder = StateGraph(Fan)
    builder.add_node("work", work)
    builder.add_conditional_edges(START, lambda s: [Send("work", {"q": q}) for q in s["qs"]], ["work"])
    builder.add_edge("work", END)
    questions = [str(i) for i in range(40)]
    result = builder.compile().invoke({"qs": questions, "out": []})
    assert dict(result["out"]) == {q: want(q) for q in questions}


def test_message_in_the_state_is_replaced():
    builder = StateGraph(MessagesState)
    builder.add_node("llm", lambda s: {"messages": [Upstream().invoke(s["messages"])]})
    builder.add_node("align", step())
    builder.add_edge(START, "llm")
    builder.add_edge("llm", "align")
    builder.add_edge("align", END)
    result = builder.compile().invoke({"messages": [HumanMessage("hey")]})
    assert [text(m) for m in result["messages"]] == ["hey", want("hey")]


def test_agent_before_the_aligner():
    from langchain.agents import create_agent

    agent = create_agent(Upstream(), tools=[])
    result = (agent | step()).invoke({"messages": [HumanMessage("hey")]})
    assert result["messages"][-1].text == want("hey")
    picked = agent | (lambda state: state["messages"][-1].text) | StrOutputParser() | step()
    assert picked.invoke({"messages": [HumanMessage("hey")]}) == want("hey")
