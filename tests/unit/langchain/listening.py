"""All the ways in which a caller can listen to an agent, and what is heard in each."""

import asyncio

from langchain_core.messages import AIMessage

from tests.unit.langchain.agents.support import CANARY

MODES = ["updates", "values", "messages", "custom", "debug", "tasks", "checkpoints", "tools"]
LISTS = [["updates", "values", "messages", "custom", "debug"], ["messages", "updates"], ["tools", "messages"]]


def invoke(agent, value, config):
    return [agent.invoke(value, config)]


def ainvoke(agent, value, config):
    return [asyncio.run(agent.ainvoke(value, config))]


def batch(agent, value, config):
    return agent.batch([value], config)


def stream(mode, **options):
    def way(agent, value, config):
        return list(agent.stream(value, config, stream_mode=mode, **options))

    return way


def astream(mode, **options):
    def way(agent, value, config):
        async def run():
            return [event async for event in agent.astream(value, config, stream_mode=mode, **options)]

        return asyncio.run(run())

    return way


def astream_events(version):
    def way(agent, value, config):
        async def run():
            return [event async for event in agent.astream_events(value, config, version=version)]

        return asyncio.run(run())

    return way


def astream_log(agent, value, config):
    async def run():
        return [patch async for patch in agent.astream_log(value, config)]

    return asyncio.run(run())


def stream_events(agent, value, config):
    return list(agent.stream_events(value, config, version="v3"))


def astream_events_v3(agent, value, config):
    async def run():
        return [event async for event in await agent.astream_events(value, config, version="v3")]

    return asyncio.run(run())


WAYS = {
    "invoke": invoke,
    "ainvoke": ainvoke,
    "batch": batch,
    **{f"stream-{mode}": stream(mode) for mode in MODES},
    **{f"astream-{mode}": astream(mode) for mode in MODES},
    **{f"stream-list-{i}": stream(modes) for i, modes in enumerate(LISTS)},
    **{f"astream-list-{i}": astream(modes) for i, modes in enumerate(LISTS)},
    "stream-subgraphs": stream(["updates", "values", "messages", "custom", "debug", "tools"], subgraphs=True),
    "astream-subgraphs": astream(["updates", "values", "messages", "custom", "debug", "tools"], subgraphs=True),
    "stream-v2": stream(["updates", "messages", "tools"], version="v2"),
    "astream_events-v2": astream_events("v2"),
    "astream_log": astream_log,
    "stream_events-v3": stream_events,
    "astream_events-v3": astream_events_v3,
}

# The lists hold every mode.
KEY_WAYS = ["invoke", "stream-list-0", "astream-list-0", "stream-tools", "astream_events-v2", "stream_events-v3"]


def thread(name="t"):
    return {"configurable": {"thread_id": name}}


def stored(saver):
    """Everything a checkpointer holds, as text."""
    return repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs), list(saver.list(None))))


# What is heard ---------------------------------------------------------------------------------------------------------


def said(messages):
    """Id -> text of what the LLM said."""
    return {message.id: message.text for message in messages if message.type == "ai"}


def gathered(chunks):
    """Id -> text of a stream of chunks; and each id is of one message, not split by others."""
    texts = {}
    for chunk in chunks:
        if isinstance(chunk, AIMessage):
            assert chunk.id not in texts or next(reversed(texts)) == chunk.id
            texts[chunk.id] = texts.get(chunk.id, "") + chunk.text
    return texts


def heard(way, events):
    """Id -> text of what the LLM said, as the caller of a way received it; None where a way shows no such thing."""
    if way in ("invoke", "ainvoke", "batch"):
        return said(events[-1]["messages"])
    if way.endswith("stream-values"):
        return said(events[-1]["messages"])
    if way.endswith("stream-updates"):
        messages = [m for event in events for update in event.values() for m in update["messages"]]
        assert len({m.id for m in messages}) == len(messages)
        return said(messages)
    if way.endswith("stream-messages"):
        return gathered(chunk for chunk, _ in events)
    if way.startswith(("stream-list", "astream-list")):
        return gathered(event[0] for mode, event in events if mode == "messages")
    if way.endswith("stream-subgraphs"):
        return gathered(event[0] for _, mode, event in events if mode == "messages")
    if way == "astream_events-v2":
        ends = [event["data"]["output"] for event in events if event["event"] == "on_chat_model_end"]
        chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
        assert gathered(chunks) == said(ends)
        return said(ends)
    if way.endswith("events-v3"):
        return heard_v3(events)
    return None


def heard_v3(events):
    texts, ids = {}, {}
    for event in events:
        if event["method"] == "messages":
            data, metadata = event["params"]["data"]
            if data["event"] == "message-start":
                texts[ids.setdefault(metadata["run_id"], data.get("id") or data.get("message_id"))] = ""
            elif data["event"] == "content-block-delta" and data["delta"]["type"] == "text-delta":
                texts[ids[metadata["run_id"]]] += data["delta"]["text"]
    return texts


def check(way, events, agent, config=None):
    """Nothing raw was received or stored; what was said, was said once, under the ids of the state."""
    assert CANARY not in repr(events)
    assert CANARY not in stored(agent.checkpointer)
    state = agent.get_state(config or thread()).values
    assert said(state["messages"])
    if (texts := heard(way, events)) is not None:
        assert texts == said(state["messages"])
    return state
