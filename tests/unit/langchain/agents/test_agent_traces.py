"""Traces show an agent's raw words to those who debug it, unless they are told not to."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tracers.context import collect_runs, tracing_v2_callback_var
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langsmith import tracing_context

from aligner_integrations.langchain import AlignerMiddleware, ThoughtAlignerMiddleware
from tests.unit.langchain.agents.support import ASKED, CANARY, FINAL, FIRST, Script, call, kind, lookup
from tests.unit.langchain.listening import WAYS
from tests.unit.langchain.smith import tree
from tests.unit.langchain.support import Upstream, aligner

pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol")

TURNS = [AIMessage(FIRST, tool_calls=[call("lookup", city="Oslo")]), AIMessage(FINAL)]


def agent(turns=TURNS, one=None, **options):
    options = {"align": "all", "tools": ["lookup"], **options}
    retry = ModelRetryMiddleware(max_retries=1)
    return create_agent(
        Script(turns=turns), [lookup], middleware=[AlignerMiddleware(one or aligner(kind), **options), retry]
    )


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-messages", "astream_events-v2"])
def test_traces_show_what_was_hidden(smith, way):
    assert CANARY not in repr(WAYS[way](agent(), ASKED, {}))
    a = "a" if way.startswith("a") else ""
    model = [
        "  model",
        f"    AlignerMiddleware[all, lookup].{a}wrap_model_call",
        f"      ModelRetryMiddleware.{a}wrap_model_call",
        "        Script",
        "      correction",
    ]
    tools = ["  tools", f"    AlignerMiddleware[all, lookup].{a}wrap_tool_call", "      lookup", "      correction"]
    assert tree(smith) == ["LangGraph", *model, *tools, *model]
    runs = list(smith.runs.values())
    for name, field in (("Script", "outputs"), ("lookup", "outputs"), ("correction", "inputs")):
        assert all(CANARY in str(run[field]) for run in runs if run["name"] == name)
    assert CANARY not in str([run.get("outputs") for run in runs if run["name"] in ("model", "tools", "LangGraph")])


def test_tracing_that_langsmith_itself_turned_on(smith):
    """Without LangChain's tracer in the context, which stands for the environment variable, too."""
    client = tracing_v2_callback_var.get().client
    token = tracing_v2_callback_var.set(None)
    with tracing_context(enabled=True, client=client):
        agent().invoke(ASKED)
    tracing_v2_callback_var.reset(token)
    assert [line.strip() for line in tree(smith)].count("Script") == 2
    assert [line.strip() for line in tree(smith)].count("correction") == 3


def asks_a_judge(llm):
    def accept(question, answer, correction):
        return bool(llm.invoke(f"Is {correction} better than {answer}?").text)

    return accept


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream-messages", "astream-messages", "astream_events-v2"])
def test_a_switch_keeps_them_out_of_traces(smith, way):
    """Also out of the spans of other middleware, and of the calls of the aligner's own judge."""
    one = aligner(kind, accept=asks_a_judge(Upstream(answer="Yes.")))
    collector = RunCollectorCallbackHandler()
    events = WAYS[way](agent(one=one, trace_original=False), ASKED, {"callbacks": [collector]})
    assert CANARY not in repr(events) + str(smith.runs) + repr(collector.traced_runs)
    a = "a" if way.startswith("a") else ""
    model = ["  model", f"    AlignerMiddleware[all, lookup].{a}wrap_model_call", "      Script"]
    tools = ["  tools", f"    AlignerMiddleware[all, lookup].{a}wrap_tool_call", "      lookup"]
    assert tree(smith) == ["LangGraph", *model, *tools, *model]
    assert "kind it rains" in str([run["outputs"] for run in smith.runs.values() if run["name"] == "Script"])


@pytest.mark.parametrize("traced", [True, False])
def test_thoughts(smith, traced):
    turns = [AIMessage(FIRST, tool_calls=[call("lookup", city="Oslo")]), AIMessage("It rains.")]
    one = ThoughtAlignerMiddleware(aligner(kind), trace_original=traced)
    app = create_agent(Script(turns=turns), [lookup], middleware=[one])
    app.invoke(ASKED)
    asyncio.run(app.ainvoke(ASKED))
    runs = [run for run in smith.runs.values() if run["name"] in ("Script", "correction")]
    assert (FIRST in str(runs)) == traced


def test_a_collector_of_runs_sees_each_model_call_once():
    """A tracer that comes by the context: it sees the hidden model, or else what stands in for it."""
    for traced in (True, False):
        with collect_runs() as collected:
            agent(trace_original=traced).invoke(ASKED)
        models = [run for run in collected.traced_runs if run.run_type == "llm"]
        assert [CANARY in repr(run.outputs) for run in models] == [traced] * 2
