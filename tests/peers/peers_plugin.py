"""A plugin for pytest: puts an aligner that changes nothing around every agent of a peer's tests, and notes how each ends.

    PEERS_AROUND=plain|middleware|model     what goes around: nothing, `AlignerMiddleware`, or `AlignedChatModel`
    PEERS_OUTCOMES=FILE                     where the outcomes are written, as JSON: a test's id -> its outcome

Loaded before any test, so that each `from langchain.agents import create_agent` of theirs finds the changed one. Messages
are compared without the record of the correction, which is new in each and would hide what else may be. What is made of the
outcomes lives in `run.py`.
"""

import functools
import json
import os
from pathlib import Path

import langchain.agents
import langgraph.prebuilt
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from aligner_integrations import AlignedChatModel, Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.langchain import AlignerMiddleware

AROUND = os.environ["PEERS_AROUND"]
SPLIT = "\x00"  # in no text
ALIGNER = Aligner(
    backend=FakeBackend(lambda prompt: prompt.partition(SPLIT)[2]), template=f"{{question}}{SPLIT}{{answer}}"
)
outcomes = {}


def with_model(make):
    """The same function, with an aligned model."""

    @functools.wraps(make)
    def made(model, *args, **kwargs):
        if isinstance(model, BaseChatModel):
            model = AlignedChatModel(llm=model, aligner=ALIGNER)
        return make(model, *args, **kwargs)

    return made


def with_middleware(make):
    """The same function, with an aligner as the first middleware."""

    @functools.wraps(make)
    def made(*args, middleware=(), **kwargs):
        return make(*args, middleware=[AlignerMiddleware(ALIGNER), *middleware], **kwargs)

    return made


def without_record(message):
    told = {key: value for key, value in message.response_metadata.items() if key != "aligner"}
    return message.model_copy(update={"response_metadata": told})


def comparing(equal):
    """The same comparison, of messages without their records."""

    def compared(self, other):
        return equal(without_record(self), without_record(other) if isinstance(other, BaseMessage) else other)

    return compared


def put_around(modules, name, wrapper):
    wrapped = wrapper(getattr(modules[0], name))
    for module in modules:
        setattr(module, name, wrapped)


put_around([BaseMessage], "__eq__", comparing)
agents = [langchain.agents, langchain.agents.factory]
if AROUND == "middleware":
    put_around(agents, "create_agent", with_middleware)
elif AROUND == "model":
    put_around(agents, "create_agent", with_model)
    react = [langgraph.prebuilt, langgraph.prebuilt.chat_agent_executor]
    put_around(react, "create_react_agent", with_model)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish():
    Path(os.environ["PEERS_OUTCOMES"]).write_text(json.dumps(outcomes), encoding="utf-8")
