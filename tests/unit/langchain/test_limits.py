"""What a bare pipe cannot do: hide the LLM's own run from whoever listens to all runs. Beside it, the way round."""

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.graph import END, START, MessagesState, StateGraph

from aligner_integrations import AlignedChatModel
from tests.unit.langchain.support import PROMPT, Upstream, aligner, astreamed, step, total

SECRET, CORRECTED = "Secret words.", "Corrected text."


def corrected(prompt):
    return CORRECTED


CHAINS = {
    "pipe": PROMPT | Upstream(answer=SECRET) | step(corrected),
    "way_round": PROMPT | AlignedChatModel(llm=Upstream(answer=SECRET), aligner=aligner(corrected)),
}


async def in_the_chains_own_stream(chain):
    return total(await astreamed(chain, {"q": "x"})).text


async def in_astream_events(chain):
    events = [event async for event in chain.astream_events({"q": "x"}, version="v2")]
    return "".join(e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream")


async def in_astream_log(chain):
    said = ""
    async for patch in chain.astream_log({"q": "x"}):
        said += "".join(str(op["value"]) for op in patch.ops if "streamed_output_str" in op["path"])
    return said


async def in_messages_of_a_graph(chain):
    builder = StateGraph(MessagesState)

    async def ask(state):
        return {"messages": [await chain.ainvoke({"q": state["messages"][-1].text})]}

    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    stream = builder.compile().astream({"messages": "x"}, stream_mode="messages")
    return "".join([message.text async for message, _ in stream])


async def in_a_handler_of_the_user(chain):
    tokens = []

    class Seen(BaseCallbackHandler):
        def on_llm_new_token(self, token, **kwargs):
            tokens.append(token)

    async for _ in chain.astream({"q": "x"}, {"callbacks": [Seen()]}):
        pass
    return "".join(tokens)


async def test_what_the_chain_itself_gives_out_is_corrected():
    for chain in CHAINS.values():
        assert await in_the_chains_own_stream(chain) == CORRECTED
        assert (await chain.ainvoke({"q": "x"})).text == CORRECTED


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
@pytest.mark.parametrize("shown", [in_astream_events, in_astream_log, in_messages_of_a_graph, in_a_handler_of_the_user])
async def test_a_pipe_cannot_hide_the_upstreams_own_run_and_an_aligned_model_can(shown):
    assert SECRET in await shown(CHAINS["pipe"])
    assert await shown(CHAINS["way_round"]) == CORRECTED
