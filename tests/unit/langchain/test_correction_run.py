"""Each correction is a run of its own in callbacks and traces; the aligner's own LLM calls never look like the user's."""

import asyncio

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph

from aligner_integrations import AlignedChatModel
from aligner_integrations.errors import BackendError
from aligner_integrations.langchain.question.recorder import INTERNAL_TAG, RECORDER
from tests.unit.langchain import shapes
from tests.unit.langchain.smith import tree
from tests.unit.langchain.support import ALIKE, PROMPT, Upstream, aligner, astreamed, mark, step, total, want


class Runs(BaseCallbackHandler):
    """Every run: name, parent, input, output or error."""

    def __init__(self):
        self.runs = {}

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, tags=None, **kwargs):
        self.runs[run_id] = {"name": kwargs["name"], "parent": parent_run_id, "inputs": inputs, "tags": tags}

    def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id=None, tags=None, **kwargs):
        self.runs[run_id] = {"name": "llm", "parent": parent_run_id, "inputs": messages, "tags": tags}

    def on_chain_end(self, outputs, *, run_id, **kwargs):
        self.runs[run_id]["outputs"] = outputs

    def on_chain_error(self, error, *, run_id, **kwargs):
        self.runs[run_id]["error"] = error

    def named(self, name):
        return [run for run in self.runs.values() if run["name"] == name]


class AsyncRuns(AsyncCallbackHandler):
    """The same for the asynchronous side."""

    def __init__(self):
        self.inner = Runs()

    async def on_chain_start(self, *args, **kwargs):
        self.inner.on_chain_start(*args, **kwargs)

    async def on_chain_end(self, *args, **kwargs):
        self.inner.on_chain_end(*args, **kwargs)

    async def on_chain_error(self, *args, **kwargs):
        self.inner.on_chain_error(*args, **kwargs)

    def named(self, name):
        return self.inner.named(name)


def invoke(runnable, value, config):
    return runnable.invoke(value, config)


def stream(runnable, value, config):
    return total(runnable.stream(value, config))


def ainvoke(runnable, value, config):
    return asyncio.run(runnable.ainvoke(value, config))


def astream(runnable, value, config):
    return total(asyncio.run(astreamed(runnable, value, config)))


WAYS = [(invoke, Runs), (stream, Runs), (ainvoke, AsyncRuns), (astream, AsyncRuns), (ainvoke, Runs), (astream, Runs)]


def check(run, question="x"):
    assert run["inputs"]["question"] == question and run["inputs"]["answer"] == ALIKE
    assert run["outputs"]["text"] == want(question)
    assert run["outputs"]["outcome"] == "corrected"
    assert 0 < run["outputs"]["changed_share"] < 1 and run["outputs"]["seconds"] >= 0


@pytest.mark.parametrize(("way", "handler"), WAYS)
def test_correction_is_a_run_below_the_step(way, handler):
    seen = handler()
    way(PROMPT | Upstream() | StrOutputParser() | step(), {"q": "x"}, {"callbacks": [seen]})
    (run,) = seen.named("correction")
    check(run)
    assert run["inputs"]["question_from"] == "text"
    runs = seen.runs if isinstance(seen, Runs) else seen.inner.runs
    assert runs[run["parent"]]["name"] == "AlignerRunnable"


@pytest.mark.parametrize(("way", "handler"), WAYS)
def test_correction_is_a_run_below_the_aligned_model(way, handler):
    seen = handler()
    model = AlignedChatModel(llm=Upstream(), aligner=aligner())
    way(PROMPT | model, {"q": "x"}, {"callbacks": [seen]})
    (run,) = seen.named("correction")
    check(run)


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_each_correction_of_a_batch_is_a_run(way):
    def fail_on_two(prompt):
        if "two" in prompt:
            raise ValueError("cannot do that")
        return mark(prompt)

    seen = Runs()
    values = [{"question": question, "answer": ALIKE} for question in ("one", "two", "three")]
    runnable, config = step(fail_on_two), {"callbacks": [seen]}
    if way == "batch":
        runnable.batch(values, config, return_exceptions=True)
    else:
        asyncio.run(runnable.abatch(values, config, return_exceptions=True))
    one, two, three = seen.named("correction")
    check(one, "one")
    check(three, "three")
    assert isinstance(two["error"], BackendError)
    assert len({run["parent"] for run in (one, two, three)}) == 3


def test_failures_and_abandoned_streams_end_their_run():
    def broken(prompt):
        raise ValueError("cannot do that")

    value = {"question": "x", "answer": ALIKE}
    seen = Runs()
    for way in (invoke, stream, ainvoke, astream):
        with pytest.raises(BackendError):
            way(step(broken), value, {"callbacks": [seen]})
    assert [type(run["error"]) for run in seen.named("correction")] == [BackendError] * 4
    seen = Runs()
    chunks = step().stream(value, {"callbacks": [seen]})
    next(chunks), next(chunks)
    chunks.close()
    assert isinstance(seen.named("correction")[0]["error"], GeneratorExit)


def test_nobody_listens_then_there_is_no_run():
    PROMPT.pipe(Upstream(), step()).invoke({"q": "x"})
    assert RECORDER.sizes()["scopes"] == 0


# LLM calls of the aligner's own -------------------------------------------------------------------------------------


def judging(llm):
    """An aligner that asks an LLM whether its correction is good."""

    async def accept(question, answer, correction):
        return (await llm.ainvoke(f"Is {correction} better?")).text == "yes it is."

    return accept


@pytest.mark.parametrize("kind", ["step", "model"])
def test_own_llm_calls_are_tagged_and_reach_no_stream(kind):
    one = aligner(accept=judging(Upstream(answer="yes it is.")))
    if kind == "step":
        chain = PROMPT | Upstream(answer="First words.") | step(lambda prompt: "Corrected text.")
        chain.last.aligner = chain.last.aligner.with_options(accept=one.policy.accept)
    else:
        one.backend.fn = lambda prompt: "Corrected text."
        chain = PROMPT | AlignedChatModel(llm=Upstream(answer="First words."), aligner=one)
    seen = Runs()

    async def events():
        config = {"callbacks": [seen]}
        return [event async for event in chain.astream_events({"q": "x"}, config, version="v2")]

    shown = asyncio.run(events())
    assert "yes" not in "".join(str(e["data"].get("chunk")) for e in shown if e["event"].endswith("_stream"))
    assert not [event for event in shown if INTERNAL_TAG in event.get("tags", [])]
    (asked,) = [run for run in seen.named("llm") if "better?" in str(run["inputs"])]
    assert INTERNAL_TAG in asked["tags"] and seen.runs[asked["parent"]]["name"] == "correction"


def test_own_llm_calls_are_not_in_the_messages_of_a_graph():
    runnable = step(lambda prompt: "Corrected text.")
    judge = judging(Upstream(answer="yes it is."))
    runnable.aligner = runnable.aligner.with_options(accept=judge)
    builder = StateGraph(MessagesState)
    builder.add_node("align", runnable)
    builder.add_edge(START, "align")
    builder.add_edge("align", END)

    async def run():
        state = {"messages": [("human", "x"), ("ai", ALIKE)]}
        return [m.text async for m, _ in builder.compile().astream(state, stream_mode="messages")]

    assert "yes" not in "".join(asyncio.run(run()))


# LangSmith ----------------------------------------------------------------------------------------------------------


def test_langsmith_shows_the_correction_below_the_step(smith):
    chain = PROMPT | Upstream() | StrOutputParser() | step()
    assert chain.invoke({"q": "x"}) == want("x")
    assert tree(smith) == [
        "RunnableSequence",
        "  ChatPromptTemplate",
        "  Upstream",
        "  StrOutputParser",
        "  AlignerRunnable",
        "    correction",
    ]
    (run,) = [run for run in smith.runs.values() if run["name"] == "correction"]
    assert run["outputs"]["outcome"] == "corrected" and run["outputs"]["text"] == want("x")
    assert {"seconds", "changed_share"} <= set(run["outputs"])


def test_langsmith_shows_the_upstream_and_the_correction_below_the_model(smith):
    AlignedChatModel(llm=Upstream(), aligner=aligner()).invoke("x")
    assert tree(smith) == ["AlignedChatModel", "  Upstream", "  correction"]
    list(AlignedChatModel(llm=Upstream(), aligner=aligner()).stream("x"))
    assert tree(smith)[3:] == ["AlignedChatModel", "  Upstream", "  correction"]


def test_llm_below_a_traceable_function(smith):
    """LangSmith gives the LLM's run a parent of its own: the message is known by its id, its bare text is a guess."""
    from langsmith import traceable

    ask = traceable(lambda q: Upstream().invoke(f"really {q}"))
    by_id = RunnableLambda(lambda q: ask(q)) | step(on_guess="raise")
    assert by_id.invoke("x").text == want("really x")
    by_text = RunnableLambda(lambda q: ask(q).text) | step()
    assert by_text.invoke("x") == want("x")


@pytest.mark.parametrize("way", [shapes.invoke, shapes.gather, shapes.stream, shapes.abatch], ids=lambda w: w.__name__)
def test_the_question_is_found_while_everything_is_traced(smith, way):
    chain = PROMPT | Upstream(delay=0.002) | StrOutputParser() | step(on_guess="raise")
    questions = [f"question {i}" for i in range(10)]
    assert way(chain, questions) == [want(q) for q in questions]
    assert len([run for run in smith.runs.values() if run["name"] == "correction"]) == 10
