"""The runnable as a citizen of LangChain: errors, cancelling, copies, options, and what it leaves behind."""

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import time
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send

from aligner_integrations import AlignedChatModel, AlignerRunnable
from aligner_integrations.errors import (
    BackendError,
    ConfigurationError,
    EmptyCorrectionError,
    InvalidTextError,
    QuestionNotFoundError,
)
from aligner_integrations.langchain import upstream
from aligner_integrations.langchain.upstream import RECORDER
from tests.unit.langchain.support import ALIKE, PROMPT, Backend, Upstream, aligner, mark, step, text, total, want


def held():
    sizes = RECORDER.sizes()
    return sizes["scopes"] + sizes["calls"]


@pytest.fixture(autouse=True)
def nothing_left():
    assert held() == 0
    yield
    assert held() == 0


def fail_on_bad(prompt):
    if "bad" in prompt:
        raise ValueError("cannot do that")
    return mark(prompt)


# Errors -------------------------------------------------------------------------------------------------------------


def test_error_of_the_upstream_leaves_nothing():
    chain = PROMPT | Upstream(fails=True) | step()
    for call in (
        lambda: chain.invoke({"q": "x"}),
        lambda: list(chain.stream({"q": "x"})),
        lambda: chain.batch([{"q": "x"}]),
    ):
        with pytest.raises(RuntimeError, match="down"):
            call()
        assert held() == 0
    results = chain.batch([{"q": "x"}, {"q": "y"}], return_exceptions=True)
    assert [type(r) for r in results] == [RuntimeError, RuntimeError]


def test_error_of_the_aligner():
    chain = PROMPT | Upstream() | step(fail_on_bad)
    for call in (
        lambda: chain.invoke({"q": "bad"}),
        lambda: asyncio.run(chain.ainvoke({"q": "bad"})),
        lambda: list(chain.stream({"q": "bad"})),
        lambda: chain.batch([{"q": "good"}, {"q": "bad"}]),
    ):
        with pytest.raises(BackendError, match="cannot do that"):
            call()
        assert held() == 0


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_each_value_of_a_batch_fails_alone(way):
    values = [
        {"question": "one", "answer": ALIKE},
        {"question": "bad", "answer": ALIKE},
        7,
        AIMessage(ALIKE),
        {"question": "two", "answer": ALIKE},
        AIMessage(""),
    ]
    runnable = AlignerRunnable(aligner(fail_on_bad), question=lambda messages: messages[0].text)

    def run(**options):
        if way == "batch":
            return runnable.batch(values, **options)
        return asyncio.run(runnable.abatch(values, **options))

    one, bad, seven, lost, two, empty = run(return_exceptions=True)
    assert (one["answer"], two["answer"]) == (want("one"), want("two"))
    assert [type(e) for e in (bad, seven, lost)] == [BackendError, InvalidTextError, QuestionNotFoundError]
    assert empty.response_metadata["aligner"]["reason"] == "no_text"
    assert runnable.aligner.backend.batches == [3]
    with pytest.raises(BackendError):
        run()


def test_policy_of_the_aligner_counts():
    value = {"question": "bad", "answer": AIMessage(ALIKE)}
    kept = AlignerRunnable(aligner(fail_on_bad, on_error="keep"))
    for result in (kept.invoke(value), total(kept.stream(value))):
        assert result["answer"].text == ALIKE
        record = result["answer"].response_metadata["aligner"]
        assert (record["outcome"], record["changed_share"]) == ("failed", 0.0)
        assert "BackendError" in record["reason"]
    blocked = AlignerRunnable(aligner(fail_on_bad, on_error="block", block_message="Withheld."))
    for result in (blocked.invoke(value), total(blocked.stream(value))):
        assert result["answer"].text == "Withheld."


def test_question_function_that_fails_or_gives_no_text():
    def broken(messages):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        (PROMPT | Upstream() | step(question=broken)).invoke({"q": "x"})
    with pytest.raises(InvalidTextError, match="question= must return a string, got HumanMessage"):
        (PROMPT | Upstream() | step(question=lambda messages: messages[-1])).invoke({"q": "x"})


# Streams, cancelling, the event loop ----------------------------------------------------------------------------------


def test_nothing_of_the_upstream_leaks_into_a_stream():
    chunks = list((PROMPT | Upstream() | step(lambda prompt: "Something else entirely.")).stream({"q": "x"}))
    assert len(chunks) > 3
    assert not {"do", "not", "know."} & set(" ".join(c.text for c in chunks).split())


def test_closing_a_stream_early_stops_the_aligner():
    runnable = step()
    chain = PROMPT | Upstream() | runnable
    chunks = chain.stream({"q": "x"})
    next(chunks)
    assert (runnable.aligner.backend.opened, runnable.aligner.backend.closed) == (1, 0)
    chunks.close()
    assert runnable.aligner.backend.closed == 1
    direct = runnable.stream({"question": "x", "answer": ALIKE})
    next(direct)
    direct.close()
    assert runnable.aligner.backend.closed == 2


async def test_closing_an_asynchronous_stream_early_stops_the_aligner():
    runnable = step()
    direct = runnable.astream({"question": "x", "answer": ALIKE})
    await anext(direct)
    await direct.aclose()
    assert (runnable.aligner.backend.opened, runnable.aligner.backend.closed) == (1, 1)
    chunks = (PROMPT | Upstream() | runnable).astream({"q": "x"})
    await anext(chunks)
    await chunks.aclose()
    await settle()
    assert (runnable.aligner.backend.opened, runnable.aligner.backend.closed) == (2, 2)


async def settle():
    """LangChain leaves the streams inside a closed one to the event loop."""
    for _ in range(200):
        gc.collect()
        await asyncio.sleep(0.005)
        if held() == 0:
            return


def test_abandoned_streams_leave_nothing():
    chain = PROMPT | Upstream() | step()
    chunks = chain.stream({"q": "x"})
    next(chunks)
    assert held() > 0
    del chunks
    gc.collect()
    assert held() == 0


@pytest.mark.parametrize("way", ["ainvoke", "abatch", "astream"])
@pytest.mark.parametrize("place", ["upstream", "aligner"])
async def test_cancelled_calls_leave_nothing(way, place):
    reached = asyncio.Event()

    class Slow(Backend):
        async def acomplete(self, requests: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)

        async def astream(self, request: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)
            yield ""

    class SlowUpstream(Upstream):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)
            yield None

    runnable = step()
    runnable.aligner.backend = Slow(mark)
    chain = PROMPT | (SlowUpstream() if place == "upstream" else Upstream()) | runnable

    async def run():
        if way == "ainvoke":
            return await chain.ainvoke({"q": "x"})
        if way == "abatch":
            return await chain.abatch([{"q": "x"}, {"q": "y"}])
        return [chunk async for chunk in chain.astream({"q": "x"})]

    task = asyncio.create_task(run())
    await asyncio.wait_for(reached.wait(), 20)
    assert held() > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await settle()
    assert held() == 0


async def test_the_event_loop_is_not_blocked():
    class Slow(Backend):
        async def acomplete(self, requests: Any) -> Any:
            await asyncio.sleep(0.2)
            return await super().acomplete(requests)

    runnable = step()
    runnable.aligner.backend = Slow(mark)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    started = time.monotonic()
    chain = PROMPT | Upstream() | runnable
    results = await asyncio.gather(*(chain.ainvoke({"q": str(i)}) for i in range(20)))
    ticking.cancel()
    assert [r.text for r in results] == [want(str(i)) for i in range(20)]
    assert ticks > 3
    assert time.monotonic() - started < 20 * 0.2  # side by side


# Memory -------------------------------------------------------------------------------------------------------------


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(upstream, "MAX_ROOT_CALLS", 10)
    for _ in range(25):
        Upstream().invoke("x")
    assert RECORDER.sizes()["root_calls"] == 10
    monkeypatch.setattr(upstream, "MAX_SCOPES", 3)

    def deeper(n):
        if n == 0:
            assert RECORDER.sizes()["scopes"] == 3
            return ALIKE
        return RunnableLambda(deeper).invoke(n - 1)

    RunnableLambda(deeper).invoke(5)


def test_forgotten_llm_calls_are_ambiguous_by_text_and_known_by_id(monkeypatch):
    monkeypatch.setattr(upstream, "MAX_CALLS", 3)
    answers = RunnableLambda(lambda qs: [Upstream(answer=q).invoke(q) for q in qs])
    questions = [str(i) for i in range(5)]
    last = answers | RunnableLambda(lambda ms: step().invoke(ms[-1]))
    assert last.invoke(questions).text == want("4", "4")
    last = answers | RunnableLambda(lambda ms: step().invoke(ms[-1].text))
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        last.invoke(questions)


def test_recorder_is_one_in_a_process():
    assert copy.deepcopy(RECORDER) is RECORDER
    assert pickle.loads(pickle.dumps(RECORDER)) is RECORDER  # noqa: S301 - made one line before
    from langchain_core.tracers.context import _configure_hooks

    before = len(_configure_hooks)
    for _ in range(3):
        step()
    assert len(_configure_hooks) == before
    assert sum(hook[0] is upstream._hook for hook in _configure_hooks) == 1


# Options, copies, composition ----------------------------------------------------------------------------------------


def test_options_of_the_aligner_and_of_the_runnable():
    runnable = AlignerRunnable(backend=Backend(mark), template="{question}||{answer}", on_error="keep")
    assert runnable.aligner.on_error == "keep"
    assert runnable.invoke({"question": "x", "answer": ALIKE})["answer"] == want("x")
    one = aligner()
    assert AlignerRunnable(one).aligner is AlignerRunnable(aligner=one).aligner is one
    with pytest.raises(ConfigurationError, match="not both: gate, rounds"):
        AlignerRunnable(one, rounds=2, gate=1.0)
    with pytest.raises(ConfigurationError, match="must be an Aligner, got str"):
        AlignerRunnable("aligner/aligner-7b-v1.0")
    with pytest.raises(ConfigurationError, match="on_guess is 'maybe'"):
        AlignerRunnable(one, on_guess="maybe")
    with pytest.raises(TypeError, match="no_such_option"):
        AlignerRunnable(no_such_option=1)


def test_fields_of_the_template_are_bound():
    runnable = step(lambda prompt: prompt)
    runnable.aligner._template = runnable.aligner.template.__class__("t", "{question}|{answer}|{aspects}")
    bound = runnable.bind(aspects="kind")
    value = {"question": "q", "answer": "a"}
    results = [bound.invoke(value), bound.batch([value])[0], total(bound.stream(value))]
    results.append(asyncio.run(bound.ainvoke(value)))
    results.append(asyncio.run(bound.abatch([value]))[0])
    assert [r["answer"] for r in results] == ["q|a|kind"] * 5
    with pytest.raises(ConfigurationError, match="aspects"):
        runnable.invoke(value)


def test_retry_and_fallback():
    calls = []

    def flaky(prompt):
        calls.append(prompt)
        if len(calls) < 3:
            raise ValueError("not yet")
        return mark(prompt)

    chain = PROMPT | Upstream() | step(flaky).with_retry(wait_exponential_jitter=False, stop_after_attempt=3)
    assert chain.invoke({"q": "x"}).text == want("x")
    assert len(calls) == 3
    chain = (
        PROMPT
        | Upstream()
        | step(lambda prompt: "").with_fallbacks([step()], exceptions_to_handle=(EmptyCorrectionError,))
    )
    assert [m.text for m in chain.batch([{"q": "x"}, {"q": "y"}])] == [want("x"), want("y")]


def test_copies_and_pickles_work():
    runnable = AlignerRunnable(aligner(mark), on_guess="raise")
    restored = pickle.loads(pickle.dumps(runnable))  # noqa: S301 - made one line before
    assert restored.on_guess == "raise"
    for one in (copy.copy(runnable), copy.deepcopy(runnable), restored):
        assert (PROMPT | Upstream() | one).invoke({"q": "x"}).text == want("x")


def test_an_unpickled_runnable_installs_the_recorder_in_its_process(tmp_path):
    path = tmp_path / "runnable.pickle"
    path.write_bytes(pickle.dumps(step()))
    program = (
        "import pickle, sys\n"
        "import aligner_integrations.langchain\n"
        "from langchain_core.tracers.context import _configure_hooks\n"
        "from tests.unit.langchain.support import PROMPT, Upstream\n"
        "before = len(_configure_hooks)\n"
        "step = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(len(_configure_hooks) - before, (PROMPT | Upstream() | step).invoke({'q': 'x'}).text)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"1 {want('x')}"


def test_importing_installs_no_hook():
    program = (
        "from langchain_core.tracers.context import _configure_hooks\n"
        "before = len(_configure_hooks)\n"
        "import aligner_integrations.langchain\n"
        "print(len(_configure_hooks) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_missing_langchain_names_the_extra():
    program = (
        "import sys\n"
        "sys.modules['langchain_core'] = None\n"
        "from aligner_integrations.errors import MissingDependencyError\n"
        "try:\n"
        "    from aligner_integrations import AlignerRunnable\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'aligner-integrations[langchain]'" in done.stdout


def test_graph_and_schema_of_a_chain_can_be_asked():
    chain = PROMPT | Upstream() | step()
    assert "AlignerRunnable" in {node.name for node in chain.get_graph().nodes.values()}
    assert chain.get_output_jsonschema() is not None
    assert step().get_name() == "AlignerRunnable"


def test_fields_are_configurable():
    runnable = step().configurable_fields(
        aligner=ConfigurableField(id="aligner"), include_original=ConfigurableField(id="original")
    )
    other = {"configurable": {"aligner": aligner(lambda prompt: "Other."), "original": True}}
    chain = PROMPT | Upstream() | runnable
    assert chain.invoke({"q": "x"}).text == want("x")
    for result in (chain.invoke({"q": "x"}, other), total(chain.stream({"q": "x"}, other))):
        assert result.text == "Other."
        assert result.response_metadata["aligner"]["original"] == ALIKE
    either = step().configurable_alternatives(ConfigurableField(id="which"), none=RunnableLambda(lambda m: m))
    assert (PROMPT | Upstream() | either.with_config(configurable={"which": "none"})).invoke({"q": "x"}).text == ALIKE


def test_dumped_without_secrets():
    runnable = step()
    runnable.aligner.backend.api_key = "s3cret-key"
    for one in (runnable, PROMPT | runnable, runnable.after(PROMPT | Upstream())):
        assert "s3cret-key" not in str(dumpd(one)) + repr(one)


def test_schemas_say_what_goes_in_and_out():
    for schema in (step().get_input_jsonschema(), step().get_output_jsonschema()):
        kinds = {part.get("type") or part["$ref"].rpartition("/")[-1] for part in schema["anyOf"]}
        assert kinds == {"string", "AIMessage", "array", "object"}


def test_concurrency_of_the_upstream_is_limited_and_the_aligner_still_has_one_batch():
    running, most = 0, 0

    def slowly(prompt):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return AIMessage(ALIKE)

    runnable = step()
    chain = PROMPT | RunnableLambda(slowly) | runnable
    values = [{"q": str(i)} for i in range(8)]
    results = chain.batch(values, {"max_concurrency": 2})
    assert [r.text for r in results] == [want(str(i)) for i in range(8)]
    assert most <= 2 and runnable.aligner.backend.batches == [8]


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
async def test_event_log_adds_up_to_the_answer():
    log = None
    async for patch in (PROMPT | Upstream() | step()).astream_log({"q": "x"}):
        log = patch if log is None else log + patch
    assert log.state["final_output"].text == want("x")
    assert total(log.state["streamed_output"]).text == want("x")


# What a bare pipe cannot do -----------------------------------------------------------------------------------------


async def shown(chain):
    """The tokens of LLMs in the events of a chain."""
    events = [event async for event in chain.astream_events({"q": "x"}, version="v2")]
    return "".join(e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream")


async def test_a_pipe_cannot_hide_the_upstreams_own_run_and_an_aligned_model_can():
    secret, corrected = Upstream(answer="Secret words."), "Corrected text."
    pipe = PROMPT | secret | step(lambda prompt: corrected)
    model = PROMPT | AlignedChatModel(llm=secret, aligner=aligner(lambda prompt: corrected))
    assert (
        total([chunk async for chunk in pipe.astream({"q": "x"})]).text == corrected
    )  # the chain's own stream is fine
    assert await shown(pipe) == "Secret words."
    assert await shown(model) == corrected

    def messages(chain):
        compiled = graph(lambda s: {"answer": chain.invoke({"q": s["q"]}).text})
        return "".join(m.text for m, _ in compiled.stream({"q": "x"}, stream_mode="messages"))

    assert "Secret words." in messages(pipe)
    assert messages(model) == corrected


# Overhead -----------------------------------------------------------------------------------------------------------


def test_a_chain_pays_little_for_the_recorder():
    """Measured side by side: the same chain of five runs with and without the recorder."""
    chain = (PROMPT | Upstream() | StrOutputParser() | RunnableLambda(str.strip)).with_config(run_name="measured")
    step()  # installs the hook

    def seconds():
        started = time.process_time()
        for _ in range(50):
            chain.invoke({"q": "x"})
        return (time.process_time() - started) / 50

    def without():
        with upstream.disabled():
            return seconds()

    seconds(), without()
    pairs = [(seconds(), without()) for _ in range(20)]
    # The least of each, as timeit advises: what is above it is the machine's other work.
    assert min(one for one, _ in pairs) - min(other for _, other in pairs) < 200e-6


# LangGraph ----------------------------------------------------------------------------------------------------------


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
    import operator

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
