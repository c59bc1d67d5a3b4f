"""The aligned chat model: goes where a chat model goes, and lets nothing of its upstream out."""

import asyncio
import copy
import pickle

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain.chat_models import init_chat_model
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, StreamingStdOutCallbackHandler, get_usage_metadata_callback
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, ValidationError

from aligner_integrations import AlignedChatModel
from aligner_integrations.errors import BackendError, InvalidTextError, QuestionNotFoundError
from aligner_integrations.langchain.question.recorder import RECORDER
from tests.unit.langchain.scripted import Scripted
from tests.unit.langchain.support import (
    ALIKE,
    PROMPT,
    USAGE,
    Backend,
    Upstream,
    aligner,
    astreamed,
    called,
    mark,
    repeat,
    step,
    total,
    want,
)

RAW = {"I", "do", "know.", "not"}


def model(llm=None, fn=mark, **options):
    return AlignedChatModel(llm=llm or Upstream(), aligner=aligner(fn), **options)


def ways(runnable, value="Why?"):
    """The message of every way to ask."""
    yield from called(runnable, value)
    yield total(runnable.stream(value))
    yield total(asyncio.run(astreamed(runnable, value)))


def record(message):
    return message.response_metadata["aligner"]


def test_answers_are_corrected_with_the_question_that_was_asked():
    for message in ways(
        model(), [SystemMessage("Be nice."), HumanMessage("one"), AIMessage("hm"), HumanMessage("two")]
    ):
        assert message.content == want("two")
        assert (record(message)["outcome"], record(message)["question_from"]) == ("corrected", "messages")
        assert ALIKE not in str(record(message))


def test_message_keeps_what_is_not_its_text():
    upstream = Upstream(
        message={
            "id": "msg-1",
            "usage_metadata": USAGE,
            "additional_kwargs": {"extra": 1},
            "response_metadata": {"model_name": "m", "logprobs": [1]},
        },
        disable_streaming=True,
    )
    for message in ways(model(upstream)):
        assert (message.id, message.usage_metadata, message.additional_kwargs) == ("msg-1", USAGE, {"extra": 1})
        assert message.response_metadata["model_name"] == "m" and "logprobs" not in message.response_metadata


def test_the_id_is_that_of_this_run_and_not_of_the_upstream():
    runs = []

    class Seen(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs):
            runs.append(run_id)

    message = model().invoke("Why?", {"callbacks": [Seen()]})
    assert len(runs) == 1 and message.id == f"lc_run--{runs[0]}-0"
    chunks = list(model().stream("Why?", {"callbacks": [Seen()]}))
    assert {chunk.id for chunk in chunks} == {f"lc_run--{runs[1]}"}


def test_the_aligner_streams_its_own_words():
    chunks = list(model(fn=lambda prompt: "Something else entirely.").stream("Why?"))
    assert len(chunks) > 3 and chunks[-1].chunk_position == "last"
    assert not RAW & set(" ".join(chunk.text for chunk in chunks).split())


def test_blocks_that_are_not_text_stay():
    blocks = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": ALIKE, "annotations": [1]}]
    for message in ways(model(Upstream(answer=blocks, disable_streaming=True))):
        assert [block["type"] for block in message.content] == ["reasoning", "text"]
        assert message.text == want("Why?") and "annotations" not in message.content[1]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"tool_calls": [{"name": "f", "args": {"x": 1}, "id": "c"}]}, "tool_calls"),
        ({"additional_kwargs": {"refusal": "No."}}, "refusal"),
        ({"response_metadata": {"stop_reason": "refusal"}}, "refusal"),
        ({"additional_kwargs": {"parsed": {"a": 1}}}, "structured"),
    ],
)
def test_left_alone_with_the_reason_on_record(part, reason):
    for message in ways(model(Upstream(message=part, disable_streaming=True))):
        assert message.content == ALIKE
        assert message.tool_calls == [{**call, "type": "tool_call"} for call in part.get("tool_calls", [])]
        assert (record(message)["outcome"], record(message)["reason"]) == ("skipped", reason)


def test_answer_without_text_is_left_alone():
    for message in ways(model(Upstream(answer="", disable_streaming=True))):
        assert message.content == "" and record(message)["reason"] == "no_text"


def test_question_option():
    def whole(messages):
        return " / ".join(message.text for message in messages)

    for message in ways(model(question=whole), [("system", "Be nice."), ("human", "x")]):
        assert message.content == want("Be nice. / x")
    with pytest.raises(InvalidTextError, match="must return a string"):
        model(question=lambda messages: messages[-1]).invoke("x")
    for options, messages in (({}, [AIMessage("hm")]), ({"question": lambda messages: ""}, "x")):
        with pytest.raises(QuestionNotFoundError, match="no text in the messages"):
            model(**options).invoke(messages)


def test_errors_and_policies():
    def broken(prompt):
        raise ValueError("cannot do that")

    failing = model(fn=broken)
    for call in (failing.invoke, lambda q: list(failing.stream(q)), lambda q: asyncio.run(failing.ainvoke(q))):
        with pytest.raises(BackendError, match="cannot do that"):
            call("x")
    kept = AlignedChatModel(llm=Upstream(), aligner=aligner(broken, on_error="keep"))
    for message in ways(kept):
        assert message.content == ALIKE and record(message)["outcome"] == "failed"
    with pytest.raises(RuntimeError, match="down"):
        model(Upstream(fails=True)).invoke("x")


@pytest.mark.parametrize(
    "upstream",
    [
        Upstream().bind(stop=["x"]),
        Upstream().with_fallbacks([Upstream()]),
        Upstream().with_retry(),
        Upstream().configurable_alternatives(ConfigurableField(id="llm")),
        Upstream().configurable_fields(delay=ConfigurableField(id="delay")),
        init_chat_model(configurable_fields="any"),
        "gpt",
    ],
)
def test_what_is_no_chat_model_is_told_the_ways_that_work(upstream):
    with pytest.raises(ValidationError, match=f"got {type(upstream).__name__}") as caught:
        model(upstream)
    for way in ("with_fallbacks([AlignedChatModel(llm=b)])", ".bind(", ".with_retry(", ".configurable_alternatives("):
        assert way in str(caught.value)


def test_the_ways_that_work():
    """Those which the error names."""
    field = ConfigurableField(id="llm")
    chosen = model().configurable_alternatives(field, b=model(Upstream(answer="No.")))
    assert chosen.invoke("x").content == want("x")
    assert chosen.invoke("x", {"configurable": {"llm": "b"}}).content == want("x", "No.")
    assert model().bind(stop=["y"]).with_retry().invoke("x").content == want("x")


def test_closing_a_stream_early_stops_the_aligner():
    backend = Backend(mark)
    aligned = model()
    aligned.aligner.backend = backend
    chunks = aligned.stream("x")
    next(chunks)
    assert (backend.opened, backend.closed) == (1, 0)
    chunks.close()
    assert backend.closed == 1

    async def run():
        chunks = aligned.astream("x")
        await anext(chunks)
        await chunks.aclose()
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert (backend.opened, backend.closed) == (2, 2)


# Nothing of the upstream gets out -----------------------------------------------------------------------------------


class Tokens(BaseCallbackHandler):
    """A user's handler that shows tokens as they come."""

    def __init__(self):
        self.tokens = []
        self.models = 0

    def on_chat_model_start(self, *args, **kwargs):
        self.models += 1

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)


def test_handlers_of_the_user_see_one_chat_model_and_its_corrected_tokens(capsys):
    seen = Tokens()
    list(model().stream("Why?", {"callbacks": [seen, StreamingStdOutCallbackHandler()]}))
    assert "".join(seen.tokens) == capsys.readouterr().out == want("Why?")
    assert seen.models == 1


def test_usage_is_counted_once():
    aligned = AlignedChatModel(llm=Scripted(), aligner=aligner())
    with get_usage_metadata_callback() as usage:
        aligned.invoke("Hello")
        list(aligned.stream("Hello"))
        asyncio.run(aligned.ainvoke("Hello"))
    assert usage.usage_metadata["scripted-1"]["total_tokens"] == 3 * 29


def test_events_hold_no_token_of_the_upstream():
    async def run(runnable):
        return [event async for event in runnable.astream_events({"q": "Why?"}, version="v2")]

    chain = PROMPT | model(Upstream(answer="Secret words."), fn=lambda prompt: "Corrected text.") | StrOutputParser()
    events = asyncio.run(run(chain))
    shown = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in shown) == "Corrected text."
    assert not [event for event in events if "Secret" in str(event["data"])]


def test_graph_and_agent_stream_corrected_tokens_only():
    aligned = model(Upstream(answer="Secret words."), fn=lambda prompt: "Corrected text.")
    builder = StateGraph(MessagesState)
    builder.add_node("llm", lambda state: {"messages": [aligned.invoke(state["messages"])]})
    builder.add_edge(START, "llm")
    builder.add_edge("llm", END)
    for app in (builder.compile(), create_agent(aligned, tools=[])):
        tokens = [message.text for message, _ in app.stream({"messages": "Why?"}, stream_mode="messages")]
        assert len(tokens) > 1 and "".join(tokens) == "Corrected text."
        updates = list(app.stream({"messages": "Why?"}, stream_mode=["updates", "values", "debug"]))
        assert "Corrected text." in str(updates) and "Secret" not in str(updates)


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
def test_events_in_their_third_version():
    aligned = model(Upstream(answer="Secret words."), fn=lambda prompt: "Corrected text.")
    run = create_agent(aligned, tools=[]).stream_events({"messages": "Why?"}, version="v3")
    assert ["".join(map(str, message.text)) for message in run.messages] == ["Corrected text."]


# Tools and structured output ----------------------------------------------------------------------------------------


class Joke(BaseModel):
    """A joke."""

    setup: str


def get_weather(city: str) -> str:
    """Say how the weather is."""
    return "It's sunny."


def test_agent_with_tools_aligns_the_last_answer():
    aligned = AlignedChatModel(llm=Scripted(), aligner=aligner())
    messages = create_agent(aligned, tools=[get_weather]).invoke({"messages": "Weather in 'Rome'?"})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"city": "Rome"} and record(messages[1])["reason"] == "tool_calls"
    assert messages[-1].text.startswith("[Weather in 'Rome'?] Hello")


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
def test_agent_with_structured_output(strategy):
    aligned = AlignedChatModel(llm=Scripted(), aligner=aligner())
    result = create_agent(aligned, tools=[], response_format=strategy(Joke)).invoke({"messages": "A joke"})
    assert isinstance(result["structured_response"], Joke)
    ai = next(message for message in result["messages"] if message.type == "ai")
    assert record(ai)["reason"] == ("structured" if strategy is ProviderStrategy else "tool_calls")


def test_structured_output_is_the_upstreams_own():
    aligned = AlignedChatModel(llm=Scripted(), aligner=aligner())
    assert aligned.with_structured_output(Joke).invoke("'Why?'") == Joke(setup="Why?")
    assert aligned.with_structured_output(Joke, include_raw=True).invoke("'Why?'")["parsed"] == Joke(setup="Why?")


def test_structured_output_is_asked_for_in_the_callers_words():
    class Strict(Scripted):
        def with_structured_output(self, schema):
            return RunnableLambda(lambda value: schema(setup="Why?"))

    assert AlignedChatModel(llm=Strict(), aligner=aligner()).with_structured_output(Joke).invoke("x") == Joke(
        setup="Why?"
    )


def test_bind_tools_of_a_wrapped_upstream():
    class Wrapping(Scripted):
        def bind_tools(self, tools, **kwargs):
            return Scripted(model="inner").bind_tools(tools, **kwargs)

    bound = AlignedChatModel(llm=Wrapping(), aligner=aligner()).bind_tools([get_weather])
    assert bound.invoke("Weather?").response_metadata["model_name"] == "inner"

    class Itself(Scripted):
        def bind_tools(self, tools, **kwargs):
            return self

    class Another(Scripted):
        def bind_tools(self, tools, **kwargs):
            return Scripted(model="inner")

    for upstream in (Itself(model="inner"), Another()):
        one = AlignedChatModel(llm=upstream, aligner=aligner()).bind_tools([get_weather])
        assert isinstance(one, AlignedChatModel) and one.invoke("x").response_metadata["model_name"] == "inner"
        assert create_agent(AlignedChatModel(llm=upstream, aligner=aligner()), [get_weather]).invoke({"messages": "x"})

    class Odd(Scripted):
        def bind_tools(self, tools, **kwargs):
            return RunnableLambda(lambda value: AIMessage("x"))

    with pytest.raises(NotImplementedError, match=r"Odd\.bind_tools returns a RunnableLambda"):
        AlignedChatModel(llm=Odd(), aligner=aligner()).bind_tools([get_weather])


# A citizen of LangChain ---------------------------------------------------------------------------------------------


class Several(Upstream):
    """Says as many answers as it is asked for, each with the info of its generation."""

    def _generate(self, messages, stop=None, run_manager=None, n=1, **kwargs):
        said = ["I know.", '{"data": 1}', "I do not."][:n]
        told = [{"finish_reason": "stop", "index": i, "logprobs": [i]} for i in range(n)]
        pairs = zip(said, told, strict=True)
        return ChatResult(
            generations=[ChatGeneration(message=AIMessage(text), generation_info=info) for text, info in pairs]
        )

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages, **kwargs)


def test_all_generations_are_corrected_in_one_batch():
    backend = Backend(mark)
    aligned = model(Several())
    aligned.aligner.backend = backend
    messages = [[HumanMessage("x")]]
    for result in (aligned.generate(messages, n=3), asyncio.run(aligned.agenerate(messages, n=3))):
        (generations,) = result.generations
        assert [g.text for g in generations] == [want("x", "I know."), '{"data": 1}', want("x", "I do not.")]
        assert len({g.message.id for g in generations}) == 3
        # What is told of the old tokens goes with them.
        assert [g.generation_info for g in generations] == [
            {"finish_reason": "stop", "index": 0},
            {"finish_reason": "stop", "index": 1, "logprobs": [1]},
            {"finish_reason": "stop", "index": 2},
        ]
        assert "logprobs" not in generations[0].message.response_metadata
    assert [size for size in backend.batches if size] == [2, 2]
    assert aligned.invoke("x").content == want("x", "I know.")


class Counted(Several):
    """Tells what all its answers took, once for a prompt; what it says of several prompts is their sum."""

    def _generate(self, messages, **kwargs):
        output = {"token_usage": 3, "model_name": "m", "id": "resp_1", "logprobs": ["I"], "said": "I know."}
        return super()._generate(messages, **kwargs).model_copy(update={"llm_output": output})

    def _combine_llm_outputs(self, outputs):
        return {**outputs[0], "token_usage": sum(output["token_usage"] for output in outputs)}


def test_what_is_told_of_all_generations_stays_as_far_as_it_is_true():
    class Told(BaseCallbackHandler):
        def on_llm_end(self, response, **kwargs):
            told.append(response.llm_output)

    two = [[HumanMessage("x")], [HumanMessage("y")]]
    for fn, wanted in ((mark, {"model_name": "m", "said": "I know."}), (repeat, Counted()._generate([]).llm_output)):
        aligned = model(Counted(), fn)
        for ask in (aligned.generate, lambda *args, **kwargs: asyncio.run(aligned.agenerate(*args, **kwargs))):  # noqa: B023
            told = []
            assert ask(two, n=3, callbacks=[Told()]).llm_output == {**wanted, "token_usage": 6}
            assert told == [{**wanted, "token_usage": 3}] * 2
    blocked = AlignedChatModel(llm=Counted(), aligner=aligner(lambda prompt: 1 / 0, on_error="block"))
    assert blocked.generate(two, n=3).llm_output == {"model_name": "m", "token_usage": 6}
    # With a handler for tokens each answer is a stream, of which nothing is told.
    assert model(Counted()).generate(two, stream=True).llm_output == {}


def test_profile_name_and_tokens_are_the_upstreams():
    class Counting(Scripted):
        def get_num_tokens(self, text):
            return 42

        def get_token_ids(self, text):
            return [1, 2]

        def get_num_tokens_from_messages(self, messages, tools=None):
            return 43

    aligned = model(Counting(profile={"structured_output": True}))
    assert aligned.profile == {"structured_output": True}
    assert aligned.model_name == "scripted-1"
    assert aligned.get_num_tokens("x") == 42 and aligned.get_token_ids("x") == [1, 2]
    assert aligned.get_num_tokens_from_messages([]) == 43
    assert model(Scripted(profile=None)).profile is None and model(Upstream()).model_name is None


def test_cache_knows_the_aligner():
    cache, calls = InMemoryCache(), []

    def count(prompt):
        calls.append(prompt)
        return mark(prompt)

    def fresh(fn):
        return AlignedChatModel(llm=Upstream(), aligner=one, cache=cache) if fn is None else model(fn=fn, cache=cache)

    one = aligner(count)
    first = fresh(None).invoke("x")
    assert fresh(None).invoke("x").content == first.content and len(calls) == 1
    assert total(fresh(None).stream("y")).content == want("y")
    assert fresh(repeat).invoke("x").content == ALIKE  # another aligner
    one = one.with_options(rounds=2)
    fresh(None).invoke("x")  # another option
    assert len(calls) > 2
    assert model(Upstream(answer="No."), cache=cache).invoke("x").content == want("x", "No.")


def test_a_cache_hit_in_front_of_another_aligner():
    chain = PROMPT | model(fn=repeat, cache=InMemoryCache()) | StrOutputParser() | step(on_guess="raise")
    assert [chain.invoke({"q": "x"}) for _ in range(3)] == [want("x")] * 3
    assert RECORDER.sizes()["scopes"] == RECORDER.sizes()["calls"] == 0


def test_aligner_after_an_aligned_model_takes_its_answer_and_not_the_upstreams():
    chain = model(fn=lambda prompt: "Corrected.") | StrOutputParser() | step()
    for result in (chain.invoke("x"), "".join(chain.stream("x")), chain.batch(["x"])[0]):
        assert result == want("x", "Corrected.")


def test_hundred_callers_at_once():
    aligned = model(Upstream(delay=0.002))
    questions = [f"question {i}" for i in range(100)]

    async def run():
        return await asyncio.gather(*map(aligned.ainvoke, questions))

    assert [m.content for m in asyncio.run(run())] == [want(q) for q in questions]
    assert [m.content for m in aligned.batch(questions)] == [want(q) for q in questions]


def test_copies_pickles_configuration_and_dumps():
    aligned = AlignedChatModel(llm=Upstream(), aligner=aligner(mark))
    for one in (copy.copy(aligned), copy.deepcopy(aligned), pickle.loads(pickle.dumps(aligned))):  # noqa: S301 - made here
        assert one.invoke("x").content == want("x")
    other = aligner(lambda prompt: "Other.")
    configurable = aligned.configurable_fields(aligner=ConfigurableField(id="aligner"))
    assert configurable.invoke("x", {"configurable": {"aligner": other}}).content == "Other."
    assert configurable.invoke("x").content == want("x")
    aligned.aligner.backend.api_key = "s3cret-key"
    assert "s3cret-key" not in str(dumpd(aligned)) + repr(aligned) + aligned._get_llm_string()


def test_retry_and_fallback():
    fallback = model(Upstream(fails=True)).with_fallbacks([model()])
    assert fallback.invoke("x").content == want("x")
    assert (PROMPT | model().with_retry()).invoke({"q": "x"}).content == want("x")
