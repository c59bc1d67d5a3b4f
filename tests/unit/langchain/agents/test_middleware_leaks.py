"""Nothing an aligner has not seen leaves an agent: each kind of model, listened to in each way a caller has."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from aligner_integrations.langchain import AlignerMiddleware, callbacks
from tests.unit.langchain.agents.support import (
    ASKED,
    CANARY,
    FINAL,
    FIRST,
    KINDS,
    Script,
    Weather,
    call,
    counted,
    kind,
    lookup,
    scripted_agent,
)
from tests.unit.langchain.listening import (
    KEY_WAYS,
    WAYS,
    check,
    gathered,
    heard,
    said,
    stored,
    thread,
)
from tests.unit.langchain.support import Backend, aligner, until

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol", "ignore:astream_log")


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_listen(way):
    agent = scripted_agent(KINDS["parallel"][0])
    events = WAYS[way](agent, ASKED, thread())
    state = check(way, events, agent)
    assert events
    assert [m.text for m in state["messages"]] == [
        "How is the weather?",
        "kind let me look.",
        "kind rain in Oslo all day",
        "kind rain in Rome all day",
        "kind it rains in two towns.",
    ]


@pytest.mark.parametrize("way", [way for way in WAYS if not way.endswith("custom")])
def test_without_the_middleware_each_of_these_ways_shows_the_raw_text(way):
    """So the test above would see it."""
    agent = create_agent(Script(turns=KINDS["parallel"][0]), tools=[lookup], checkpointer=InMemorySaver())
    assert CANARY in repr(WAYS[way](agent, ASKED, thread()))
    assert CANARY in stored(agent.checkpointer)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_model(name):
    """The product with all ways to listen is in tests/integration/test_agents.py."""
    check_kind(name, KEY_WAYS)


def check_kind(name, ways):
    turns, options = KINDS[name]
    agent = scripted_agent(turns, **options)
    for way in ways:
        state = check(way, WAYS[way](agent, ASKED, thread(way)), agent, thread(way))
        final = next(m for m in reversed(state["messages"]) if m.type == "ai")
        if name == "provider_strategy":
            assert final.text == '{"rain": true}' and final.response_metadata["aligner"]["reason"] == "structured"
        else:
            assert final.text.endswith("kind it rains in two towns.")
        if options:
            assert state["structured_response"] == Weather(rain=True)
        if name == "reasoning":
            assert [m.content[0]["signature"] for m in state["messages"] if m.type == "ai"] == ["c2lnbmVk"] * 2
        tools = [m for m in state["messages"] if m.type == "tool" and m.name == "lookup"]
        assert bool(tools) == (name != "no_tools") and all(m.text.startswith("kind rain in") for m in tools)


# Agents in graphs and in tools -------------------------------------------------------------------------------------------


def test_an_agent_as_a_node_of_another_graph():
    builder = StateGraph(MessagesState)
    builder.add_node("agent", scripted_agent(KINDS["reasoning"][0], saver=False))
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    for way in [*KEY_WAYS, "stream-subgraphs", "astream-subgraphs"]:
        events = WAYS[way](graph, ASKED, thread(way))
        assert CANARY not in repr(events) + stored(graph.checkpointer)
        messages = graph.get_state(thread(way)).values["messages"]
        assert messages[-1].text == "kind it rains in two towns."
        if way.endswith("subgraphs"):
            assert heard(way, events) == said(messages)


def test_an_agent_in_a_tool_of_another():
    inner = scripted_agent(KINDS["text"][0], saver=False)

    @tool
    def ask(question: str) -> str:
        """Ask somebody else."""
        return f"{CANARY} " + inner.invoke({"messages": question})["messages"][-1].text

    turns = [AIMessage(FIRST, tool_calls=[call("ask", question="Rain?")]), AIMessage(FINAL)]
    outer = scripted_agent(turns, tools=[ask])
    for way in [*KEY_WAYS, "stream-subgraphs", "astream-subgraphs"]:
        state = check("", WAYS[way](outer, ASKED, thread(way)), outer, thread(way))
        assert state["messages"][2].text == "kind kind it rains in two towns."


# What the v3 run gives besides its events --------------------------------------------------------------------------------


def test_projections_of_the_v3_run():
    agent = scripted_agent(KINDS["parallel"][0])
    run = agent.stream_events(ASKED, thread("messages"), version="v3")
    messages = [(message.output, str(message.text)) for message in run.messages]
    assert [text for _, text in messages] == ["kind let me look.", "kind it rains in two towns."]
    assert [call["id"] for call in messages[0][0].tool_calls] == ["call-lookup-1", "call-lookup-2"]
    assert said(run.output["messages"]) == {message.id: text for message, text in messages}
    run = agent.stream_events(ASKED, thread("tools"), version="v3")
    calls = list(run.tool_calls)
    assert len(calls) == 2 and CANARY not in repr([(call.output, list(call.output_deltas)) for call in calls])
    assert all(call.completed and call.error is None and str(call.output).startswith("kind rain") for call in calls)


def test_deltas_of_an_aligned_tool_are_not_shown():
    from langgraph.prebuilt import ToolRuntime

    @tool
    def slowly(city: str, runtime: ToolRuntime) -> str:
        """Look the weather up, word by word."""
        for word in (f"{CANARY} ", "rain"):
            runtime.emit_output_delta(word)
        return f"{CANARY} rain"

    turns = [AIMessage("", tool_calls=[call("slowly", city="Oslo")]), AIMessage(FINAL)]
    raw = create_agent(Script(turns=turns), tools=[slowly])
    for way in ("stream-tools", "astream-tools", "stream_events-v3", "astream_events-v3"):
        assert "tool-output-delta" in repr(WAYS[way](raw, ASKED, thread()))  # it would be
        agent = scripted_agent(turns, [slowly])
        events = WAYS[way](agent, ASKED, thread())
        check("", events, agent)
        assert "tool-output-delta" not in repr(events) and "tool-finished" in repr(events)


# Interrupts and their resumption -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["aligner first", "aligner last"])
def test_a_human_in_the_loop_sees_aligned_words_and_the_aligner_is_asked_once_an_answer(order):
    fn, prompts = counted()
    middleware = [
        AlignerMiddleware(aligner(fn), align="all", tools=["lookup"]),
        HumanInTheLoopMiddleware(interrupt_on={"lookup": True}),
    ]
    agent = create_agent(
        Script(turns=KINDS["text"][0]),
        tools=[lookup],
        middleware=middleware if order == "aligner first" else middleware[::-1],
        checkpointer=InMemorySaver(),
    )
    for way in KEY_WAYS:
        prompts.clear()
        events = WAYS[way](agent, ASKED, thread(way))
        assert CANARY not in repr(events) + stored(agent.checkpointer)
        (stopped,) = agent.get_state(thread(way)).interrupts
        assert stopped.value["action_requests"][0]["name"] == "lookup" and len(prompts) == 1
        events = WAYS[way](agent, Command(resume={"decisions": [{"type": "approve"}]}), thread(way))
        assert CANARY not in repr(events) + stored(agent.checkpointer)
        assert [m.text for m in agent.get_state(thread(way)).values["messages"]][1:] == [
            "kind let me look.",
            "kind rain in Oslo all day",
            "kind it rains in two towns.",
        ]
        assert len(prompts) == 3


def test_an_interrupt_inside_an_aligned_tool():
    @tool
    def ask(question: str) -> str:
        """Ask the user."""
        return f"{CANARY} they say {interrupt(question)}"

    fn, prompts = counted()
    agent = scripted_agent([AIMessage("", tool_calls=[call("ask", question="Sure?")]), AIMessage(FINAL)], [ask], fn=fn)
    for way in KEY_WAYS:
        prompts.clear()
        events = WAYS[way](agent, ASKED, thread(way))
        assert CANARY not in repr(events) + stored(agent.checkpointer) and not prompts
        assert [i.value for i in agent.get_state(thread(way)).interrupts] == ["Sure?"]
        state = check("", WAYS[way](agent, Command(resume="yes"), thread(way)), agent, thread(way))
        assert state["messages"][2].text == "kind they say yes" and len(prompts) == 2


def test_a_run_that_goes_on_from_a_checkpoint_does_not_ask_again():
    fn, prompts = counted()
    agent = scripted_agent(KINDS["text"][0], fn=fn, interrupt_before=["tools"])
    agent.invoke(ASKED, thread())
    assert len(prompts) == 1
    result = agent.invoke(None, thread())
    assert len(prompts) == 3 and result["messages"][-1].text == "kind it rains in two towns."


# Many at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["messages", "updates"])
async def test_fifty_agents_at_once(mode):
    """One agent object, fifty conversations: each aligned with its own question, each id its own."""
    agent = scripted_agent(KINDS["parallel"][0], fn=lambda prompt: prompt.replace(CANARY, "kind").replace("||", ": "))

    async def one(number):
        question, config = f"Question {number:02}?", thread(str(number))
        events = [e async for e in agent.astream({"messages": question}, config, stream_mode=mode)]
        return question, events, agent.get_state(config).values["messages"]

    ids = set()
    for question, events, messages in await asyncio.gather(*map(one, range(50))):
        assert CANARY not in repr(events)
        assert [m.text for m in messages if m.type in ("ai", "tool")] == [
            f"{question}: kind let me look.",
            f"{question}: kind rain in Oslo all day",
            f"{question}: kind rain in Rome all day",
            f"{question}: kind it rains in two towns.",
        ]
        if mode == "messages":
            assert gathered(chunk for chunk, _ in events) == said(messages)
        ids |= said(messages).keys()
    assert len(ids) == 100 and CANARY not in stored(agent.checkpointer)


def test_fifty_threads_at_once():
    agent = scripted_agent(KINDS["text"][0], fn=lambda prompt: prompt.replace(CANARY, "kind").replace("||", ": "))
    questions = [f"Question {i}?" for i in range(50)]
    results = agent.batch([{"messages": q} for q in questions], [thread(q) for q in questions])
    assert [r["messages"][-1].text for r in results] == [f"{q}: kind it rains in two towns." for q in questions]


# If LangChain's private handler classes go away ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["stream-messages", "astream-messages", "stream-list-0", "stream_events-v3", "stream-tools"]
)
def test_the_tag_alone_keeps_langgraphs_own_streams_clean(way, monkeypatch):
    monkeypatch.setattr(callbacks, "_STREAMS", ())
    agent = scripted_agent(KINDS["parallel"][0])
    check("", WAYS[way](agent, ASKED, thread()), agent)


# Live ------------------------------------------------------------------------------------------------------------------


def live_agent(content, heard=None):
    """An agent whose aligner writes four words. With a list of what is heard it waits for each before the next one."""

    class Live(Backend):
        def stream(self, request):
            yield from ("These ", "are ", "new ", "words.")

        async def astream(self, request):
            for number, word in enumerate(self.stream(request)):
                await until(lambda number=number: heard is None or len(heard) == number)
                yield word

    one = aligner()
    one.backend = Live(kind)
    return create_agent(Script(turns=[AIMessage(content)]), middleware=[AlignerMiddleware(one)])


@pytest.mark.parametrize("content", [FINAL, [{"type": "text", "text": FINAL}]])
async def test_the_aligners_words_come_as_it_writes_them(content):
    """LangGraph's synchronous stream cannot be told so: it hands on a step at a time."""
    heard = []
    async for chunk, _ in live_agent(content, heard).astream(ASKED, stream_mode="messages"):
        if chunk.text.strip():
            heard.append(chunk.text.strip())
    assert heard == ["These", "are", "new", "words."]


@pytest.mark.parametrize("way", ["stream-messages", "stream_events-v3", "astream_events-v2", "astream-messages"])
def test_each_word_is_an_event_of_its_own(way):
    events = WAYS[way](live_agent(FINAL), ASKED, thread())
    words = [
        word for event in events for word in ("These", " are", " new", " words.") if repr(word)[1:-1] in repr(event)
    ]
    assert words[:4] == ["These", " are", " new", " words."]
