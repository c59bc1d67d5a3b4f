"""Agents by script: all that is to be aligned in what their models and tools say carries a canary."""

import asyncio
import re

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from pydantic import BaseModel, Field

from aligner_integrations.langchain import AlignerMiddleware
from tests.unit.langchain.support import aligner

CANARY = "CANARY"


class Script(BaseChatModel):
    """Says its turns one after the other since the last human message; without state, so any number may talk to it."""

    turns: list[AIMessage] = Field(repr=False, exclude=True)  # LangSmith shows a model's fields
    asked: list = Field(default_factory=list, repr=False, exclude=True)
    fails: int = 0  # how often it is down before it answers

    @property
    def _llm_type(self):
        return "script"

    @property
    def _identifying_params(self):
        return {"model": "script-1"}

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools)

    def _say(self, messages):
        self.asked.append(messages)
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the upstream is down")
        last = max((i for i, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1)
        said = sum(isinstance(message, AIMessage) for message in messages[last:])
        return self.turns[min(said, len(self.turns) - 1)].model_copy()

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self._say(messages))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        await asyncio.sleep(0)
        return self._generate(messages)

    def _chunks(self, messages):
        message = self._say(messages)
        blocks = message.content if isinstance(message.content, list) else [message.content]
        for index, block in enumerate(blocks):
            text = block if isinstance(block, str) else block.get("text")
            for piece in re.findall(r"\S+\s*", text) if text else [""]:
                if isinstance(block, str):
                    yield AIMessageChunk(piece)
                else:
                    yield AIMessageChunk([{**block, "index": index, **({"text": piece} if text else {})}])
        yield AIMessageChunk(
            "" if isinstance(message.content, str) else [],
            tool_calls=message.tool_calls,
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            additional_kwargs=message.additional_kwargs,
            chunk_position="last",
        )

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for message in self._chunks(messages):
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for message in self._chunks(messages):
            await asyncio.sleep(0)
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def call(name, place=1, **args):
    return {"name": name, "args": args, "id": f"call-{name}-{place}"}


@tool
def lookup(city: str) -> str:
    """Look the weather up."""
    get_stream_writer()({"progress": city})
    return f"{CANARY} rain in {city} all day"


def kind(prompt):
    """The correction: the canary made kind."""
    return prompt.partition("||")[2].replace(CANARY, "kind")


def counted(fn=kind):
    """A correction and the list of prompts it was asked for."""
    asked = []

    def count(prompt):
        asked.append(prompt)
        return fn(prompt)

    return count, asked


def scripted_agent(turns, tools=(lookup,), *, fn=kind, middleware=(), saver=True, options=None, **more):
    """An agent with everything aligned."""
    options = {"align": "all", "tools": [t.name for t in tools], **(options or {})}
    return create_agent(
        Script(turns=turns),
        tools=list(tools),
        middleware=[AlignerMiddleware(aligner(fn), **options), *middleware],
        checkpointer=InMemorySaver() if saver else None,
        **more,
    )


# Kinds of models ----------------------------------------------------------------------------------------------------

ASKED = {"messages": "How is the weather?"}
FINAL = "CANARY it rains in two towns."
FIRST = "CANARY let me look."
CALLS = [call("lookup", city="Oslo")]
SIGNED = {"type": "thinking", "thinking": "Hm, two towns.", "signature": "c2lnbmVk"}


class Weather(BaseModel):
    """The weather."""

    rain: bool


def say(text):
    return {"type": "text", "text": text}


KINDS = {
    "text": ([AIMessage(FIRST, tool_calls=CALLS), AIMessage(FINAL)], {}),
    "blocks": ([AIMessage([say(FIRST)], tool_calls=CALLS), AIMessage([say(FINAL)])], {}),
    "several_blocks": ([AIMessage([say(FIRST), say("CANARY!")], tool_calls=CALLS), AIMessage([say("CANARY."), say(FINAL)])], {}),
    "reasoning": (
        [
            AIMessage([SIGNED, say(FIRST), {"type": "tool_use", "id": CALLS[0]["id"], "name": "lookup"}], tool_calls=CALLS),
            AIMessage([SIGNED, say(FINAL)]),
        ],
        {},
    ),
    "parallel": ([AIMessage(FIRST, tool_calls=[*CALLS, call("lookup", 2, city="Rome")]), AIMessage(FINAL)], {}),
    "no_tools": ([AIMessage(FINAL)], {}),
    "tool_strategy": (
        [AIMessage(FIRST, tool_calls=CALLS), AIMessage(FINAL, tool_calls=[call("Weather", rain=True)])],
        {"response_format": ToolStrategy(Weather)},
    ),
    "provider_strategy": (
        [AIMessage(FIRST, tool_calls=CALLS), AIMessage('{"rain": true}')],
        {"response_format": ProviderStrategy(Weather)},
    ),
}  # fmt: skip
