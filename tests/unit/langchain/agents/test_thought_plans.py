"""Forty harmful and forty harmless plans: what a prompted aligner decides about a thought is what happens.

The agent and the LLM that is prompted to be the aligner are scripts, so these numbers say nothing about how good an aligner
is; they say that no tool runs on a thought that was changed, and what that costs in calls of the agent's LLM.
"""

import asyncio
import re

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.langchain import ThoughtAlignerMiddleware
from aligner_integrations.langchain.agents.thought_middleware import AGAIN
from tests.unit.langchain.agents.plans import PLANS
from tests.unit.langchain.support import Backend

HARM = re.compile(
    r"manipulat|suppress|false|without (?:her|his|their) (?:consent|knowledge)|falsif|stolen|rig |launder|deceive|sabotage"
    r"|to harm|forge|bribe|blackmail|plagiarize|humiliate|break into|cheat|propaganda|destroy|threaten|fabricate"
)
FORMS = ["text", "think", "field", "block", "react"]
STUBBORN = 5  # each fifth harmful plan is repeated by an LLM that does not listen


def by_instruction(text):
    return next((place, plan) for place, plan in enumerate(PLANS) if plan.instruction == text)


def says(place, plan):
    """The plan as one of the forms in which LLMs think."""
    form = FORMS[place // 2 % len(FORMS)]
    call = {"name": plan.tool, "args": {"what": plan.instruction}, "id": f"call-{place}"}
    text, more = {
        "text": (plan.thought, {}),
        "think": (f"<think>{plan.thought}</think>", {}),
        "field": ("", {"additional_kwargs": {"reasoning_content": plan.thought}}),
        "block": ([{"type": "thinking", "thinking": plan.thought, "signature": "c2ln"}], {}),
        "react": (f"Thought: {plan.thought}\nAction: {plan.tool}\nAction Input: it", {}),
    }[form]
    return AIMessage(text, tool_calls=[call], **more)


class Planner(BaseChatModel):
    """The agent's LLM: plans, and chooses again from a corrected thought, unless it is stubborn."""

    @property
    def _llm_type(self):
        return "planner"

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools)

    def _answer(self, messages):
        place, plan = by_instruction(next(m.text for m in messages if isinstance(m, HumanMessage)))
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("Done.")
        if messages[-1].text != AGAIN or (plan.harmful and place // 2 % STUBBORN == 0):
            return says(place, plan)
        if messages[-2].text.startswith("I will not"):
            return AIMessage("I cannot help with that.")
        return AIMessage("", tool_calls=says(place, plan).tool_calls)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        CALLS.append(next(m.text for m in messages if isinstance(m, HumanMessage)))
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])


class Judge(BaseChatModel):
    """The LLM that is prompted to be the aligner: rewrites what it takes for harm, and each haste."""

    @property
    def _llm_type(self):
        return "judge"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        system, human = messages
        assert isinstance(system, SystemMessage)
        marked = re.search(r"<answer (\w+)>\n(.*)\n</answer \1>", human.text, re.DOTALL)
        if marked:  # the prompt of `Aligner.from_chat_model`
            ASKED.append(human.text)
        thought = marked[2] if marked else human.text.removesuffix(" ASSISTANT:").rpartition(" | ")[2]
        revision = thought.replace("quickly", "carefully")
        if HARM.search(thought):
            revision = "I will not do this, because it would harm others; I will say so."
        if marked and revision == thought:
            revision = f"UNCHANGED {marked[1]}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(revision))])


def by_template(llm):
    """The LLM is given the template of Thought-Aligner."""

    def fn(prompt):
        ASKED.append(prompt)
        return llm.invoke(
            [SystemMessage("Rewrite the thought if it would do harm, else repeat it."), ("human", prompt)]
        ).text

    backend = Backend(fn)
    assert isinstance(backend, FakeBackend)
    return Aligner(backend=backend, template="thought")


CALLS, ASKED, RAN = [], [], []


def run(name):
    def tool(what: str) -> str:
        """Do it."""
        RAN.append(what)
        return f"Did it: {what}"

    tool.__name__ = name
    return tool


@pytest.fixture(scope="module", params=[by_template, Aligner.from_chat_model], ids=["template", "chat model"])
def agent(request):
    tools = [run(name) for name in ("search", "write", "send", "change", "run")]
    return create_agent(Planner(), tools, middleware=[ThoughtAlignerMiddleware(request.param(Judge()))])


@pytest.fixture
def logs():
    for log in (CALLS, ASKED, RAN):
        log.clear()


def outcome(plan, messages):
    calls, ran = CALLS.count(plan.instruction), RAN.count(plan.instruction)
    last = messages[-1].text
    if ran:
        return "ran at once" if calls == 2 else "ran after one more call" if calls == 3 else f"{calls} calls"
    return {"I cannot help with that.": "declined", Aligner(backend=Backend(str)).policy.block_message: "blocked"}[last]


NUMBERS = {
    "harmful": {"declined": 32, "blocked": 8},
    "harmless": {"ran at once": 34, "ran after one more call": 6},
}
"""As in the docstring of thought_middleware.py."""


@pytest.mark.parametrize("way", ["sync", "async"])
def test_decisions_are_honoured(agent, logs, way, request):
    if way == "sync":
        results = [agent.invoke({"messages": plan.instruction}) for plan in PLANS]
    else:

        async def everything():
            return await asyncio.gather(*(agent.ainvoke({"messages": plan.instruction}) for plan in PLANS))

        results = asyncio.run(everything())
    counts = {"harmful": {}, "harmless": {}}
    for plan, result in zip(PLANS, results, strict=True):
        kind, what = "harmful" if plan.harmful else "harmless", outcome(plan, result["messages"])
        counts[kind][what] = counts[kind].get(what, 0) + 1
        assert CALLS.count(plan.instruction) <= (2 if plan.harmful else 3)
        assert plan.harmful is False or plan.thought not in repr(result)
    assert counts == NUMBERS
    assert sorted(RAN) == sorted(plan.instruction for plan in PLANS if not plan.harmful)
    by_chat = request.node.callspec.params["agent"] == Aligner.from_chat_model
    start = "<question " if by_chat else "BEGINNING OF CONVERSATION: USER: Edit the following Instruction-Thought"
    assert all(prompt.startswith(start) for prompt in ASKED)
    for plan in PLANS:
        wanted = f"\n{plan.thought}\n</answer" if by_chat else f"{plan.instruction} | {plan.thought} ASSISTANT:"
        assert any(plan.instruction in prompt and wanted in prompt for prompt in ASKED)


async def test_no_harmful_thought_is_streamed(agent, logs):
    async def one(plan):
        modes = ["messages", "updates", "values", "debug", "tools"]
        return [event async for event in agent.astream({"messages": plan.instruction}, stream_mode=modes)]

    harmful = [plan for plan in PLANS if plan.harmful]
    for plan, events in zip(harmful, await asyncio.gather(*map(one, harmful)), strict=True):
        assert events and plan.thought not in repr(events)
    assert not RAN
