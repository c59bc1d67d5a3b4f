"""In LangGraph: nodes, fan-outs, histories, subgraphs, the functional API, streams, agents."""

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, RetryPolicy, Send
from pydantic import Field

from aligner_integrations.errors import QuestionNotFoundError
from tests.unit.langchain.support import Upstream, held, settle, step, text, until, want


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


# The functional API ---------------------------------------------------------------------------------------------------


def test_tasks_and_entrypoints():
    @task
    def ask(q):
        return Upstream(delay=0.002).invoke(q).text

    @task
    def fix(answer):
        return step().invoke(answer)

    @entrypoint()
    def one(q):
        return fix(ask(q).result()).result()

    @entrypoint()
    def two(q):
        return step().invoke(ask(q).result())

    @entrypoint()
    def several(q):
        return [step().invoke(answer.result()) for answer in [ask(f"{q} {i}") for i in range(3)]]

    for workflow in (one, two):
        assert [workflow.invoke(q) for q in ("a", "b")] == [want("a"), want("b")]
        assert workflow.batch(["a", "b"]) == [want("a"), want("b")]
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):  # equal texts of three questions
        several.invoke("a")


async def test_asynchronous_tasks():
    @task
    async def ask(q):
        return (await Upstream(delay=0.002).ainvoke(q)).text

    @entrypoint()
    async def workflow(q):
        return await step().ainvoke(await ask(q))

    questions = [str(i) for i in range(60)]
    assert await asyncio.gather(*map(workflow.ainvoke, questions)) == [want(q) for q in questions]


# Subgraphs, retries, other states ----------------------------------------------------------------------------------


def ask_in_node(state):
    return {"answer": Upstream().invoke("in " + state["q"]).text}


def align_in_node(state):
    return {"answer": step(on_guess="raise").invoke(state["answer"])}


def test_subgraphs_on_either_side():
    for compiled in (
        graph(graph(ask_in_node), align_in_node),
        graph(ask_in_node, graph(align_in_node)),
        graph(graph(ask_in_node, align_in_node)),
    ):
        assert compiled.invoke({"q": "x"})["answer"] == want("in x")
        assert [*compiled.stream({"q": "x"}, stream_mode="values")][-1]["answer"] == want("in x")


def test_node_that_is_tried_again():
    tries = []

    def flaky(state):
        answer = Upstream().invoke(state["q"]).text
        tries.append(answer)
        if len(tries) < 3:
            raise ConnectionError("again")
        return {"answer": step().invoke(answer)}

    builder = StateGraph(State)
    builder.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0.01, jitter=False))
    builder.add_edge(START, "flaky")
    builder.add_edge("flaky", END)
    assert builder.compile().invoke({"q": "x"})["answer"] == want("x")
    assert len(tries) == 3


@dataclass
class Data:
    q: str
    answer: str = ""


def test_state_of_another_kind_and_nodes_that_go_on_by_command():
    builder = StateGraph(Data)
    builder.add_node("ask", lambda s: Command(update=ask_in_node({"q": s.q}), goto="align"))
    builder.add_node("align", lambda s: align_in_node({"answer": s.answer}))
    builder.add_edge(START, "ask")
    assert builder.compile().invoke(Data("x"))["answer"] == want("in x")


def test_messages_that_are_sent_on_are_known_and_equal_texts_are_not():
    """Sixty LLM calls in one stage, sixty aligners in the next one."""

    def app(of):
        builder = StateGraph(Fan)
        builder.add_node("ask", lambda s: {"asked": [(s["q"], of(Upstream(delay=0.002).invoke(s["q"])))]})
        builder.add_node("join", lambda s: {})
        builder.add_node("align", lambda s: {"out": [(s["q"], step().invoke(s["answer"]))]})
        builder.add_conditional_edges(START, lambda s: [Send("ask", {"q": q}) for q in s["qs"]], ["ask"])
        builder.add_edge("ask", "join")
        builder.add_conditional_edges(
            "join", lambda s: [Send("align", {"q": q, "answer": a}) for q, a in s["asked"]], ["align"]
        )
        builder.add_edge("align", END)
        return builder.compile()

    questions = [str(i) for i in range(60)]
    given = {"qs": questions, "asked": [], "out": []}
    out = app(lambda message: message).invoke(given)["out"]
    assert {q: text(answer) for q, answer in out} == {q: want(q) for q in questions}
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        app(text).invoke(given)


# An app with everything ----------------------------------------------------------------------------------------------


class Fan(TypedDict):
    qs: list[str]
    asked: Annotated[list[Any], operator.add]
    out: Annotated[list[Any], operator.add]


class Conversation(TypedDict):
    messages: Annotated[list[Any], add_messages]
    qs: list[str]
    out: Annotated[list[Any], operator.add]


class Counting(Upstream):
    """An upstream that counts whom it was asked by, unless a cache answers for it."""

    asked: list[str] = Field(default_factory=list)

    def _generate(self, messages, *args, **kwargs):
        self.asked.append(messages[-1].text)
        return super()._generate(messages, *args, **kwargs)

    async def _agenerate(self, messages, *args, **kwargs):
        self.asked.append(messages[-1].text)
        return await super()._agenerate(messages, *args, **kwargs)

    async def _astream(self, messages, *args, **kwargs):
        self.asked.append(messages[-1].text)
        async for chunk in super()._astream(messages, *args, **kwargs):
            yield chunk


class App:
    """Sixty branches at once, each with a history, an upstream that is down, its fallback, and a cache."""

    def __init__(self):
        self.llm = Counting(delay=0.02, cache=InMemoryCache())
        prompt = ChatPromptTemplate.from_messages(
            [("system", "Be nice."), MessagesPlaceholder("turns"), ("human", "{q}")]
        )
        answer = Upstream(fails=True).with_fallbacks([self.llm]) | StrOutputParser() | step(on_guess="raise")
        self.chain = prompt | answer
        builder = StateGraph(Conversation)
        builder.add_node("answer", RunnableLambda(self.answer, self.aanswer))
        builder.add_node("join", lambda s: {"messages": [AIMessage(f"{len(s['out'])} answers")]})
        builder.add_conditional_edges(
            START, lambda s: [Send("answer", {"q": q, "turns": s["messages"]}) for q in s["qs"]], ["answer"]
        )
        builder.add_edge("answer", "join")
        builder.add_edge("join", END)
        self.compiled = builder.compile(InMemorySaver())

    def answer(self, given):
        return {"out": [(given["q"], self.chain.invoke(given))]}

    async def aanswer(self, given):
        return {"out": [(given["q"], await self.chain.ainvoke(given))]}


QUESTIONS = [f"question {i}" for i in range(60)]
RIGHT = {q: want(q) for q in QUESTIONS}


def turn():
    return {"messages": [HumanMessage("Sixty questions, please.")], "qs": QUESTIONS, "out": []}


def thread(name):
    return {"configurable": {"thread_id": name}}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_app_with_sixty_branches_a_history_a_fallback_and_a_cache(way):
    app = App()

    def run(name):
        if way == "sync":
            return app.compiled.invoke(turn(), thread(name))
        return asyncio.run(app.compiled.ainvoke(turn(), thread(name)))

    assert dict(run("a")["out"]) == RIGHT
    assert sorted(app.llm.asked) == sorted(QUESTIONS)
    assert held() == 0
    assert dict(run("b")["out"]) == RIGHT  # the same prompts: from the cache
    assert len(app.llm.asked) == 60
    again = run("a")  # a second turn has a history in its prompts
    assert again["out"][60:] == [(q, want(q)) for q in QUESTIONS] and len(again["messages"]) == 4
    assert len(app.llm.asked) == 120
    assert held() == 0


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "debug"])
async def test_app_whose_stream_is_cancelled_starts_again(mode):
    app = App()
    app.llm.delay = 60.0

    async def read():
        return [chunk async for chunk in app.compiled.astream(turn(), thread("a"), stream_mode=mode)]

    reading = asyncio.create_task(read())
    await until(lambda: app.llm.asked)
    assert held() > 0
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    del reading
    await settle()
    assert held() == 0
    app.llm.delay = 0.002
    assert dict((await app.compiled.ainvoke(turn(), thread("b")))["out"]) == RIGHT
