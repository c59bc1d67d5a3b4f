"""What `AlignerMiddleware` aligns, what it leaves alone, what a message keeps, and how it gets on with other middleware."""

import asyncio
import copy
import pickle
import subprocess
import sys
from typing import Annotated

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedState
from langgraph.types import Command

from aligner_integrations import AlignerMiddleware, AlignerRunnable
from aligner_integrations.errors import BackendError, ConfigurationError, InvalidTextError, QuestionNotFoundError
from aligner_integrations.langchain.question.recorder import RECORDER
from tests.unit.langchain.agents.support import (
    ASKED,
    CANARY,
    FINAL,
    FIRST,
    Script,
    Weather,
    call,
    counted,
    kind,
    lookup,
)
from tests.unit.langchain.listening import KEY_WAYS, WAYS, thread
from tests.unit.langchain.support import USAGE, aligner

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol")

TURNS = [AIMessage(FIRST, tool_calls=[call("lookup", city="Oslo")]), AIMessage(FINAL)]


def agent(turns=TURNS, has=(lookup,), *, fn=kind, middleware=(), on="raise", model=None, **options):
    more = {
        key: options.pop(key) for key in ("response_format", "checkpointer", "name", "system_prompt") if key in options
    }
    one = AlignerMiddleware(aligner(fn, on_error=on, on_reject=on), **options)
    return create_agent(model or Script(turns=turns), list(has), middleware=[one, *middleware], **more)


def broken(prompt):
    raise ValueError("cannot do that")


def both(app, value=ASKED):
    """The messages, by invoke and by ainvoke."""
    yield app.invoke(value)["messages"]
    yield asyncio.run(app.ainvoke(value))["messages"]


def texts(messages):
    return [message.text for message in messages[1:]]


def record(message):
    return message.response_metadata["aligner"]


# What is aligned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "aligned"),
    [
        ({}, [False, False, True]),
        ({"align": "final"}, [False, False, True]),
        ({"align": "thoughts"}, [True, False, False]),
        ({"align": "all"}, [True, False, True]),
        ({"align": None, "tools": ["lookup"]}, [False, True, False]),
        ({"tools": [lookup]}, [False, True, True]),
        ({"tools": ["something else"]}, [False, False, True]),
    ],
)
def test_what_is_asked_for_is_aligned(options, aligned):
    for messages in both(agent(**options)):
        assert [CANARY not in text for text in texts(messages)] == aligned
        assert messages[1].tool_calls[0]["args"] == {"city": "Oslo"}
        for message, done in zip(messages[1:], aligned, strict=True):
            if message.type == "ai":
                assert record(message)["outcome"] == ("corrected" if done else "skipped")
                assert record(message)["question_from"] == ("messages" if done else None)
            assert CANARY not in str(message.response_metadata)


def test_the_record_holds_the_original_if_asked_to():
    for messages in both(agent(include_original=True, tools=["lookup"])):
        assert record(messages[-1])["original"] == FINAL
        assert record(messages[2])["original"] == f"{CANARY} rain in Oslo all day"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (AIMessage("No.", additional_kwargs={"refusal": "No."}), "refusal"),
        (AIMessage([{"type": "refusal", "refusal": "No."}]), "refusal"),
        (AIMessage(""), "no_text"),
    ],
)
def test_left_alone_with_the_reason_on_record(message, reason):
    fn, prompts = counted()
    for messages in both(agent([message], fn=fn)):
        assert record(messages[-1])["reason"] == reason and messages[-1].content == message.content
    assert not prompts


def test_an_answer_with_a_broken_tool_call_is_final_and_so_aligned():
    bad = {"name": "lookup", "args": "{oops", "id": "1", "error": "no JSON", "type": "invalid_tool_call"}
    for messages in both(agent([AIMessage(FINAL, invalid_tool_calls=[bad])])):
        assert messages[-1].text == kind("||" + FINAL) and messages[-1].invalid_tool_calls == [bad]


def test_a_message_keeps_what_is_not_its_text():
    said = AIMessage(
        [{"type": "text", "text": FINAL, "annotations": [1]}],
        id="msg-1",
        usage_metadata=USAGE,
        additional_kwargs={"extra": 1},
        response_metadata={"model_name": "m", "logprobs": [1], "id": "resp_1"},
    )
    for messages in both(agent([said], name="reporter")):
        message = messages[-1]
        assert (message.id, message.name, message.usage_metadata) == ("msg-1", "reporter", USAGE)
        assert message.additional_kwargs == {"extra": 1} and message.content == [
            {"type": "text", "text": kind("||" + FINAL)}
        ]
        # ChatOpenAI(use_previous_response_id=True) would go on from the raw answer at the server.
        assert "id" not in message.response_metadata and record(message)["upstream_response_id"] == "resp_1"
        assert "logprobs" not in message.response_metadata and message.response_metadata["model_name"] == "m"


def test_text_beside_a_structured_answer_is_aligned_and_the_data_is_not():
    turns = [AIMessage(FINAL, tool_calls=[call("Weather", rain=True)])]
    for align in ("final", "all"):
        result = agent(turns, [], align=align, response_format=ToolStrategy(Weather)).invoke(ASKED)
        assert result["structured_response"] == Weather(rain=True)
        assert texts(result["messages"])[0] == kind("||" + FINAL) and result["messages"][1].tool_calls


# The question --------------------------------------------------------------------------------------------------------


def test_the_question_is_the_last_human_message_or_picked_from_the_whole_conversation():
    def show(prompt):
        return prompt.partition("||")[0]

    value = {"messages": [("human", "one"), ("ai", "hm"), ("human", "two")]}
    assert agent(fn=show).invoke(value)["messages"][-1].text == "two"

    def whole(messages):
        return " / ".join(message.text for message in messages)

    for messages in both(agent(fn=show, question=whole, system_prompt="Be nice."), value):
        assert messages[-1].text == f"Be nice. / one / hm / two / {FIRST} / {CANARY} rain in Oslo all day"


def test_questions_that_are_none():
    with pytest.raises(InvalidTextError, match="must return a string"):
        agent(question=lambda messages: None).invoke(ASKED)
    with pytest.raises(QuestionNotFoundError, match="no text in the messages"):
        agent(question=lambda messages: "").invoke(ASKED)


# Tools ---------------------------------------------------------------------------------------------------------------


@tool
def commanding(city: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command:
    """Return a command."""
    return Command(update={"messages": [ToolMessage(f"{CANARY} {city}", tool_call_id=tool_call_id)]})


@tool
def listing(city: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> list:
    """Return a list."""
    return [Command(update={"messages": [ToolMessage(f"{CANARY} {city}", tool_call_id=tool_call_id)]})]


@tool(response_format="content_and_artifact")
def artifact(city: str):
    """Return an artifact."""
    return f"{CANARY} {city}", {"degrees": 3}


@tool
def blocks(city: str) -> list:
    """Return blocks."""
    return [{"type": "text", "text": f"{CANARY} {city}"}, {"type": "image", "url": "https://example.org/x.png"}]


@tool
def stateful(city: str, state: Annotated[dict, InjectedState]) -> str:
    """Use the state."""
    return f"{CANARY} {city} {len(state['messages'])}"


@tool
async def asynchronous(city: str) -> str:
    """Work without blocking."""
    await asyncio.sleep(0)
    return f"{CANARY} {city}"


@tool
def data(city: str) -> dict:
    """Return data."""
    return {"city": city, "word": CANARY}


KINDS_OF_TOOLS = [
    (commanding, "kind Oslo"),
    (listing, "kind Oslo"),
    (artifact, "kind Oslo"),
    (blocks, "kind Oslo"),
    (stateful, "kind Oslo 2"),
    (asynchronous, "kind Oslo"),
    (data, '{"city": "Oslo", "word": "CANARY"}'),
]


@pytest.mark.parametrize(("one", "aligned"), KINDS_OF_TOOLS, ids=[one.name for one, _ in KINDS_OF_TOOLS])
def test_kinds_of_tools(one, aligned):
    app = agent([AIMessage("", tool_calls=[call(one.name, city="Oslo")]), AIMessage(FINAL)], [one], tools=[one])
    ways = (
        ["ainvoke", "astream-list-2"]
        if one is asynchronous
        else ["invoke", "ainvoke", "stream-list-2", "stream_events-v3"]
    )
    for way in ways:
        messages = WAYS[way](app, ASKED, {})
        assert (CANARY in repr(messages)) == (one is data)  # a program reads it: what parses as JSON is not aligned
    (message,) = [m for m in asyncio.run(app.ainvoke(ASKED))["messages"] if m.type == "tool"]
    assert message.text == aligned and message.tool_call_id == call(one.name)["id"]
    assert record(message)["outcome"] == ("skipped" if one is data else "corrected")
    assert message.artifact == ({"degrees": 3} if one is artifact else None)
    assert one is not blocks or message.content[1]["url"] == "https://example.org/x.png"


def test_failures_of_tools_are_told_as_they_are():
    @tool
    def failing(city: str) -> str:
        """Fail."""
        raise RuntimeError(f"no {city}")

    turns = [AIMessage("", tool_calls=[call("failing", city="Oslo")]), AIMessage(FINAL)]
    fn, prompts = counted()
    app = agent(turns, [failing], fn=fn, tools=["failing"])
    for way in ("invoke", "ainvoke"):
        with pytest.raises(RuntimeError, match="no Oslo"):
            WAYS[way](app, ASKED, {})
    failing.handle_tool_error = failing.handle_validation_error = True
    bad = [AIMessage("", tool_calls=[call("failing", town="Oslo"), call("unknown")]), AIMessage(FINAL)]
    app = agent(bad, [failing], fn=fn, tools=["failing", "unknown"])
    for messages in both(app):
        assert [m.status for m in messages if m.type == "tool"] == ["error", "error"] and len(messages) == 5
    assert len(prompts) == 2  # the final answers


def test_an_aligner_that_fails_on_a_tool_does_not_run_the_tool_again():
    ran = []

    @tool
    def once(city: str) -> str:
        """Do something that must not be done twice."""
        ran.append(city)
        return f"{CANARY} done"

    turns = [AIMessage("", tool_calls=[call("once", city="Oslo")]), AIMessage(FINAL)]
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False)
    app = agent(turns, [once], fn=broken, middleware=[retry], tools=["once"])
    for way in ("invoke", "ainvoke"):
        with pytest.raises(BackendError, match="cannot do that"):
            WAYS[way](app, ASKED, {})
    assert ran == ["Oslo", "Oslo"]


def test_tools_that_other_middleware_brings_in_at_run_time():
    class Dynamic(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(tools=[*request.tools, stateful]))

        def wrap_tool_call(self, request, handler):
            return handler(request.override(tool=stateful))

    one = AlignerMiddleware(aligner(kind), tools=["stateful"], align="all")
    turns = [AIMessage("", tool_calls=[call("stateful", city="Oslo")]), AIMessage(FINAL)]
    app = create_agent(Script(turns=turns), [lookup], middleware=[Dynamic(), one])
    for way in ("invoke", "stream-tools", "stream-list-2"):
        assert CANARY not in repr(WAYS[way](app, ASKED, {}))
    assert app.invoke(ASKED)["messages"][2].text == "kind Oslo 2"


class Smuggling(AgentMiddleware):
    """Offers the LLM a tool that the agent does not know how to run."""

    def wrap_model_call(self, request, handler):
        return handler(request.override(tools=[*request.tools, artifact]))


def test_only_middleware_for_tools_has_hooks_around_them():
    """LangChain asks the class, and looks for unknown tools, and makes do without a tools node, where there is none."""
    for align in ("final", "all", None):
        one = AlignerMiddleware(aligner(kind), align=align)
        with pytest.raises(ValueError, match="Unknown tools"):
            create_agent(Script(turns=TURNS), [lookup], middleware=[one, Smuggling()]).invoke(ASKED)
        assert "tools" not in create_agent(Script(turns=TURNS), middleware=[one]).get_graph().nodes
    one = AlignerMiddleware(aligner(kind), tools=["stateful"])
    assert "tools" in create_agent(Script(turns=TURNS), middleware=[one]).get_graph().nodes


class Louder(AlignerMiddleware):
    """A subclass with a hook of its own, which goes first."""

    def wrap_tool_call(self, request, handler):
        result = super().wrap_tool_call(request, handler)
        return result.model_copy(update={"content": result.content.upper()})


def test_subclasses_and_copies_keep_their_hooks():
    for one in (Louder(aligner(kind), tools=["lookup"]), copy.copy(Louder(aligner(kind), tools=["lookup"]))):
        assert type(one).__name__ == "Louder" and isinstance(one, Louder)
        messages = create_agent(Script(turns=TURNS), [lookup], middleware=[one]).invoke(ASKED)["messages"]
        assert messages[2].text == "KIND RAIN IN OSLO ALL DAY"
    stored = pickle.loads(pickle.dumps(AlignerMiddleware(aligner(kind), tools=["lookup"])))  # noqa: S301 - made here
    assert (
        create_agent(Script(turns=TURNS), [lookup], middleware=[stored])
        .invoke(ASKED)["messages"][2]
        .text.startswith("kind")
    )


# Blocking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", ["final", "all"])
def test_a_blocked_message_has_no_tool_call_and_the_next_turn_works(align):
    saver = InMemorySaver()
    app = agent(fn=broken, on="block", align=align, checkpointer=saver)
    for number in (1, 2):
        messages = app.invoke(ASKED, thread())["messages"]
        calls = {call["id"] for m in messages if m.type == "ai" for call in m.tool_calls}
        answered = {m.tool_call_id for m in messages if m.type == "tool"}
        assert calls == answered and bool(calls) == (align == "final")
        assert messages[-1].text == aligner().policy.block_message and record(messages[-1])["outcome"] == "failed"
        assert len([m for m in messages if m.type == "human"]) == number
    assert "FINAL" not in str(messages) and CANARY not in messages[-1].text


def test_a_blocked_thought_takes_reasoning_and_native_calls_with_it():
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": FIRST},
        {"type": "tool_use", "id": "1", "name": "lookup", "input": {}},
    ]
    said = AIMessage(
        content, tool_calls=[call("lookup", city="Oslo")], additional_kwargs={"tool_calls": [1]}, id="msg-1"
    )
    for way in KEY_WAYS:
        assert CANARY not in repr(WAYS[way](agent([said], fn=broken, on="block", align="all"), ASKED, {}))
    for messages in both(agent([said], fn=broken, on="block", align="all")):
        message = messages[-1]
        assert (message.content, message.id) == (aligner().policy.block_message, "msg-1")
        assert not message.tool_calls and not message.additional_kwargs


def test_a_blocked_text_beside_a_structured_answer_leaves_the_data():
    turns = [AIMessage(FINAL, tool_calls=[call("Weather", rain=True)])]
    result = agent(turns, [], fn=broken, on="block", response_format=ToolStrategy(Weather)).invoke(ASKED)
    assert result["structured_response"] == Weather(rain=True)
    assert result["messages"][1].text == aligner().policy.block_message and result["messages"][1].tool_calls


def test_policies_are_the_aligners():
    for way in ("invoke", "ainvoke", "stream-messages", "astream-messages"):
        with pytest.raises(BackendError, match="cannot do that"):
            WAYS[way](agent(fn=broken), ASKED, {})
    for messages in both(agent(fn=broken, on="keep")):
        assert messages[-1].text == FINAL and record(messages[-1])["outcome"] == "failed"


# Beside other middleware -----------------------------------------------------------------------------------------------


def test_retries_and_fallbacks_are_hidden_as_well():
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False)
    fallback = ModelFallbackMiddleware(Script(turns=TURNS))
    for middleware, fails in ((retry, 1), (fallback, 9)):
        for way in KEY_WAYS:
            app = agent(model=Script(turns=TURNS, fails=fails), middleware=[middleware], align="all", tools=["lookup"])
            assert CANARY not in repr(WAYS[way](app, ASKED, {}))


def test_the_order_with_retries():
    """Aligner first: its failure is its own. Last: each failure calls the LLM again, and ends as the answer."""
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False, on_failure="continue")
    for first in (True, False):
        model = Script(turns=[AIMessage(FINAL)])
        one = AlignerMiddleware(aligner(broken))
        app = create_agent(model, middleware=[one, retry] if first else [retry, one])
        if first:
            with pytest.raises(BackendError):
                app.invoke(ASKED)
        else:
            assert "BackendError" in app.invoke(ASKED)["messages"][-1].text
        assert len(model.asked) == (1 if first else 3)


def test_pii_middleware_sees_the_corrected_text():
    pii = PIIMiddleware("email", apply_to_output=True)
    for order in (1, -1):
        middleware = [AlignerMiddleware(aligner(lambda prompt: "Write to a@example.org.")), pii][::order]
        for way in KEY_WAYS:
            app = create_agent(Script(turns=[AIMessage(FINAL)]), middleware=middleware)
            assert CANARY not in repr(WAYS[way](app, ASKED, {}))
        assert "a@example.org" not in app.invoke(ASKED)["messages"][-1].text


def test_limits():
    for limit in (ModelCallLimitMiddleware(run_limit=1), ToolCallLimitMiddleware(run_limit=1, exit_behavior="end")):
        app = agent([TURNS[0]], middleware=[limit], align="all", tools=["lookup"])
        assert CANARY not in repr(app.invoke(ASKED))


def test_summaries_are_made_of_aligned_text():
    summariser = Script(turns=[AIMessage("A summary.")])
    summary = SummarizationMiddleware(summariser, trigger=("messages", 3), keep=("messages", 1))
    fn, prompts = counted()
    told = {"question": lambda messages: "How is the weather?"}  # the summary takes it away
    app = agent(fn=fn, middleware=[summary], align="all", tools=["lookup"], checkpointer=InMemorySaver(), **told)
    for _ in range(3):
        result = app.invoke(ASKED, thread())
    assert len(summariser.asked) >= 2 and CANARY not in repr(summariser.asked)
    assert result["messages"][-1].text == kind("||" + FINAL)
    assert len(prompts) == 9  # two texts and a result a turn, whatever became of the history


def test_a_human_edits_the_call_of_an_aligned_message():
    human = HumanInTheLoopMiddleware(interrupt_on={"lookup": True})
    one = AlignerMiddleware(aligner(kind), align="all", tools=["lookup"])
    app = create_agent(Script(turns=TURNS), [lookup], middleware=[human, one], checkpointer=InMemorySaver())
    app.invoke(ASKED, thread())
    edit = {"type": "edit", "edited_action": {"name": "lookup", "args": {"city": "Bergen"}}}
    messages = app.invoke(Command(resume={"decisions": [edit]}), thread())["messages"]
    assert messages[1].text == kind("||" + FIRST) and messages[2].text.endswith("kind rain in Bergen all day")
    assert CANARY not in repr(messages)


def test_two_in_one_agent():
    first, second = (AlignerMiddleware(aligner(fn), name=name) for fn, name in ((kind, "kind"), (str.upper, "loud")))
    app = create_agent(Script(turns=[AIMessage(FINAL)]), middleware=[second, first])
    assert app.invoke(ASKED)["messages"][-1].text.endswith("KIND IT RAINS IN TWO TOWNS.")
    for way in KEY_WAYS:
        assert CANARY not in repr(WAYS[way](app, ASKED, {}))
    tools = AlignerMiddleware(aligner(kind), align=None, tools=["lookup"])
    both_names = create_agent(Script(turns=TURNS), [lookup], middleware=[AlignerMiddleware(aligner(kind)), tools])
    assert both_names.invoke(ASKED)["messages"][2].text.startswith("kind rain")
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(Script(turns=TURNS), middleware=[AlignerMiddleware(aligner()), AlignerMiddleware(aligner())])


# Handlers and hooks ----------------------------------------------------------------------------------------------------


class Tokens(BaseCallbackHandler):
    """A user's handler that shows what comes."""

    def __init__(self):
        self.seen, self.models, self.tools = [], 0, 0

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.models += 1
        self.seen.append((serialized, messages, kwargs))

    def on_tool_start(self, serialized, input_str, **kwargs):
        self.tools += 1
        self.seen.append((serialized, input_str, kwargs))

    def on_llm_new_token(self, token, **kwargs):
        self.seen.append((token, kwargs))

    def on_llm_end(self, response, **kwargs):
        self.seen.append(response)

    def on_tool_end(self, output, **kwargs):
        self.seen.append(output)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-messages", "stream_events-v3"])
def test_handlers_of_the_user_see_one_chat_model_and_one_tool_a_step(way):
    seen = Tokens()
    WAYS[way](agent(align="all", tools=["lookup"]), ASKED, {"callbacks": [seen]})
    assert CANARY not in repr(seen.seen) and "kind it rains" in repr(seen.seen)
    assert (seen.models, seen.tools) == (2, 1)


def test_usage_is_counted_once():
    turns = [
        message.model_copy(update={"usage_metadata": USAGE, "response_metadata": {"model_name": "m"}})
        for message in TURNS
    ]
    with get_usage_metadata_callback() as usage:
        agent(turns).invoke(ASKED)
        list(agent(turns).stream(ASKED, stream_mode="messages"))
        asyncio.run(agent(turns).ainvoke(ASKED))
    assert usage.usage_metadata["m"]["total_tokens"] == 3 * 2 * 3


def test_a_step_behind_the_agent_finds_the_question():
    chain = agent() | AlignerRunnable(aligner(lambda prompt: prompt.replace("||", ": ")), on_guess="raise")
    assert chain.invoke(ASKED)["messages"][-1].text == f"How is the weather?: {kind('||' + FINAL)}"
    assert RECORDER.sizes()["scopes"] == RECORDER.sizes()["calls"] == 0


def test_a_cache_of_llm_calls_holds_no_aligned_answer():
    set_llm_cache(InMemoryCache())
    try:
        for fn in (kind, lambda prompt: kind(prompt).upper()):
            for way in ("invoke", "stream-messages", "ainvoke"):
                WAYS[way](agent(TURNS[1:], fn=fn), ASKED, {})
            assert agent(TURNS[1:], fn=fn).invoke(ASKED)["messages"][-1].text == fn("||" + FINAL)
    finally:
        set_llm_cache(None)


async def test_a_cancelled_agent_stops_its_aligner():
    started, stopped = asyncio.Event(), asyncio.Event()

    class Endless(type(aligner().backend)):
        async def acomplete(self, requests):
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                stopped.set()

    one = aligner()
    one.backend = Endless(kind)
    running = asyncio.create_task(
        create_agent(Script(turns=TURNS[1:]), middleware=[AlignerMiddleware(one)]).ainvoke(ASKED)
    )
    await asyncio.wait_for(started.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(stopped.wait(), 60)
    assert RECORDER.sizes()["scopes"] == RECORDER.sizes()["calls"] == 0


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "everything"}, "align is 'everything'"),
        ({"tools": "lookup"}, r"such as \['lookup'\]"),
        ({"tools": [1]}, "got int"),
        ({"aligner": "aligner/aligner-7b-v1.0"}, r"got str; a model is given as Aligner\(model\)"),
        ({"aligner": aligner(), "model": "x"}, "not both: model"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AlignerMiddleware(**options)


def test_options_of_the_aligner_and_names():
    one = AlignerMiddleware(on_error="block", template="paper", tools=["b", lookup])
    assert one.aligner.policy.on_error == "block" and one.name == "AlignerMiddleware[final, b, lookup]"
    assert AlignerMiddleware(aligner(), name="mine").name == "mine"


def test_without_langchain_itself_the_message_names_the_extra():
    code = """
import sys
sys.modules["langchain.agents.middleware"] = None
import aligner_integrations.langchain as here
assert here.AlignerRunnable
try:
    here.AlignerMiddleware
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'aligner-integrations[agents]'" in done.stdout


def test_the_model_of_an_agent_may_be_told_at_run_time():
    from langchain.chat_models import init_chat_model

    one = AlignerMiddleware(aligner(kind))
    assert init_chat_model(configurable_fields="any").get_name()

    class Chooses(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(model=Script(turns=[AIMessage(FINAL)])))

    app = create_agent(init_chat_model(configurable_fields="any"), middleware=[one, Chooses()])
    for way in ("invoke", "stream-messages", "stream_events-v3"):
        assert CANARY not in repr(WAYS[way](app, {"messages": [HumanMessage("x")]}, {}))
