"""Chains of every shape around one upstream, and the ways to ask one of them many questions at once."""

import asyncio
import copy
from operator import itemgetter

from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
    chain,
)
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langgraph.graph import END, START, MessagesState, StateGraph

from aligner_integrations import AlignedChatModel
from tests.unit.langchain.support import (
    ALIKE,
    OTHER_PROMPT,
    PROMPT,
    Upstream,
    aligner,
    astreamed,
    on_threads,
    repeat,
    step,
    text,
    total,
    want,
)

REWRITTEN = "A rewritten query."
TEXT = StrOutputParser()
FEW_SHOTS = ChatPromptTemplate.from_messages(
    [("system", "Be nice."), ("human", "An example"), ("ai", ALIKE), MessagesPlaceholder("more"), ("human", "{q}")]
)
PREFILLED = ChatPromptTemplate.from_messages([("human", "{q}"), ("ai", "Sure:")])
RAG = ChatPromptTemplate.from_template("Context: {context}\n\nQuestion: {question}\nAnswer from the context.")
# Another LLM writes the question anew first.
REWRITE = OTHER_PROMPT | Upstream(answer=REWRITTEN) | TEXT | RunnableLambda(lambda s: {"q": s})


class Breaks(Upstream):
    """An upstream that fails in the middle of its answer."""

    def _generate(self, *args, **kwargs):
        raise RuntimeError("the upstream is down")

    async def _agenerate(self, *args, **kwargs):
        raise RuntimeError("the upstream is down")


def passed_on(chunks):
    yield from chunks


async def apassed_on(chunks):
    async for chunk in chunks:
        yield chunk


def streamed_inside(llm):
    def ask(values):
        for value in values:
            for chunk in llm.stream("inner " + value["q"]):
                yield chunk.text

    async def aask(values):
        async for value in values:
            async for chunk in llm.astream("inner " + value["q"]):
                yield chunk.text

    return RunnableGenerator(ask, aask)


def asked_inside(llm):
    def ask(given):
        return llm.invoke("inner " + given["q"]).text

    async def aask(given):
        return (await llm.ainvoke("inner " + given["q"])).text

    return RunnableLambda(ask, aask)


def decorated(llm):
    @chain
    async def whole(given):
        answer = await (PROMPT | llm | TEXT).ainvoke(given)
        return await step().ainvoke(answer)

    @chain
    def sync(given):
        return step().invoke((PROMPT | llm | TEXT).invoke(given))

    return RunnableLambda(sync.func, whole.afunc)


def graph(llm):
    async def ask(state):
        return {"messages": [await llm.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", RunnableLambda(lambda s: {"messages": [llm.invoke(s["messages"])]}, ask))
    builder.add_node("align", step())
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "align")
    builder.add_edge("align", END)
    app = builder.compile()

    async def arun(prompt):
        return await app.ainvoke({"messages": prompt.to_messages()})

    # Not the app itself: streamed, it gives out updates that do not add up.
    return PROMPT | RunnableLambda(lambda prompt: app.invoke({"messages": prompt.to_messages()}), arun)


def tool_turn(given):
    call = {"name": "look_up", "args": {}, "id": "1"}
    return [HumanMessage(given["q"]), AIMessage("", tool_calls=[call]), ToolMessage("found", tool_call_id="1")]


def in_other_threads(llm):
    def ask(given):
        with ContextThreadPoolExecutor(1) as pool:
            return pool.submit(llm.invoke, "inner " + given["q"]).result().text

    async def aask(given):
        return (await asyncio.to_thread(llm.invoke, "inner " + given["q"])).text

    return RunnableLambda(ask, aask) | step()


def asked_twice(llm):
    """In one run, and both say the same: the messages are still told apart."""
    both = RunnableParallel(mine=PROMPT | llm, other=OTHER_PROMPT | llm)
    return both | itemgetter("mine") | step()


# The sixteen of the research, and what the issue names beside them.
NAMED = {
    "plain": lambda llm: PROMPT | llm | step(),
    "text": lambda llm: PROMPT | llm | TEXT | step(),
    "changed_text": lambda llm: PROMPT | llm | TEXT | RunnableLambda(str.upper) | step(),
    "inner_config": lambda llm: (PROMPT | llm).with_config(run_name="inner", tags=["t"]) | step(),
    "llm_config": lambda llm: PROMPT | llm.with_config(tags=["t"]) | step(),
    "llm_bind": lambda llm: PROMPT | llm.bind(stop=["x"]) | step(),
    "llm_retry": lambda llm: PROMPT | llm.with_retry() | step(),
    "chain_retry": lambda llm: (PROMPT | llm).with_retry() | step(),
    "llm_fallback": lambda llm: PROMPT | Upstream(fails=True).with_fallbacks([llm]) | step(),
    "chain_fallback": lambda llm: (PROMPT | Upstream(fails=True)).with_fallbacks([PROMPT | llm]) | step(),
    "step_retry": lambda llm: PROMPT | llm | step().with_retry().with_config(run_name="aligner"),
    "step_in_lambda": lambda llm: PROMPT | llm | RunnableLambda(lambda message: step().invoke(message)),
    "wrapped": lambda llm: (PROMPT | llm | step()).with_config(run_name="outer").with_retry(),
    "nested": lambda llm: (
        (
            (RunnablePassthrough() | PROMPT).with_config(run_name="i") | (llm | TEXT).with_config(run_name="j")
        ).with_config(run_name="k")
        | step()
    ),
    "two_aligners": lambda llm: PROMPT | llm | step(repeat) | step(),
    "two_aligners_text": lambda llm: PROMPT | llm | TEXT | step(lambda prompt: ALIKE) | step(),
}
# What else people write.
MORE = {
    "cut_text": lambda llm: PROMPT | llm | TEXT | RunnableLambda(lambda s: s[:8]) | step(),
    "rewritten_text": lambda llm: PROMPT | llm | TEXT | RunnableLambda(lambda s: "Quite another.") | step(),
    "rebuilt_message": lambda llm: PROMPT | llm | RunnableLambda(lambda m: AIMessage(m.text)) | step(),
    "blocks": lambda llm: PROMPT | llm | RunnableLambda(lambda m: [{"type": "text", "text": m.text}]) | step(),
    "step_fallback": lambda llm: PROMPT | llm | step(lambda prompt: "").with_fallbacks([step()]),
    "step_bound": lambda llm: PROMPT | llm | step().bind().with_listeners(on_start=lambda run: None),
    "step_of_its_own": lambda llm: PROMPT | llm | TEXT | (RunnableLambda(str.strip) | step()),
    "text_in_lambda": lambda llm: PROMPT | llm | TEXT | RunnableLambda(lambda s: step().invoke(s)),
    "explicit_sequence": lambda llm: RunnableSequence(PROMPT, llm, TEXT, step(), TEXT),
    "generator_between": lambda llm: PROMPT | llm | TEXT | RunnableGenerator(passed_on, apassed_on) | step(),
    "streamed_inside": lambda llm: streamed_inside(llm) | step(),
    "asked_inside": lambda llm: asked_inside(llm) | step(),
    "decorated": decorated,
    "rewriter_before": lambda llm: REWRITE | PROMPT | llm | TEXT | step(),
    "rewriter_in_assign": lambda llm: REWRITE | RunnablePassthrough.assign(a=PROMPT | llm) | itemgetter("a") | step(),
    "rewriter_alike": lambda llm: (
        OTHER_PROMPT | llm | TEXT | RunnableLambda(lambda s: {"q": s}) | PROMPT | llm | step()
    ),
    "assigned": lambda llm: RunnablePassthrough.assign(answer=PROMPT | llm) | step(),
    "assigned_text": lambda llm: RunnablePassthrough.assign(answer=PROMPT | llm | TEXT) | step(),
    "question_beside": lambda llm: {"question": itemgetter("q"), "answer": PROMPT | llm | TEXT} | step(),
    "asked_twice": asked_twice,
    "branch": lambda llm: RunnableBranch((lambda d: not d["q"], TEXT), PROMPT | llm) | step(),
    "router": lambda llm: (lambda d: {"key": "k", "input": d}) | RouterRunnable({"k": PROMPT | llm}) | step(),
    "lambda_of_chain": lambda llm: RunnableLambda(lambda given: PROMPT | llm) | step(),
    "alternatives": lambda llm: (
        PROMPT
        | Upstream(fails=True)
        .configurable_alternatives(ConfigurableField(id="llm"), good=llm)
        .with_config(configurable={"llm": "good"})
        | step()
    ),
    "broken_in_the_middle": lambda llm: PROMPT | Breaks().with_fallbacks([llm]) | TEXT | step(),
    "few_shots": lambda llm: (
        RunnablePassthrough.assign(more=lambda d: [HumanMessage("Earlier"), AIMessage(ALIKE)])
        | FEW_SHOTS
        | llm
        | TEXT
        | step()
    ),
    "retrieval": lambda llm: (
        itemgetter("q")
        | RunnableParallel(context=lambda q: f"documents about {q}", question=RunnablePassthrough())
        | RAG
        | llm
        | TEXT
        | step(question="question")
    ),
    "completion": lambda llm: PromptTemplate.from_template("{q}") | FakeStreamingListLLM(responses=[ALIKE]) | step(),
    "completion_cached": lambda llm: (
        PROMPT | FakeStreamingListLLM(responses=[ALIKE], cache=InMemoryCache()).with_retry() | step()
    ),
    "no_llm": lambda llm: PROMPT | RunnableLambda(lambda prompt: ALIKE) | step(),
    "no_callbacks": lambda llm: PROMPT | llm.with_config(callbacks=[]) | TEXT | step(),
    "aligned_model": lambda llm: PROMPT | AlignedChatModel(llm=llm, aligner=aligner(repeat)) | TEXT | step(),
    "assigned_inside": lambda llm: RunnablePassthrough.assign(answer=PROMPT | llm | TEXT | step()),
    "aligned_if_needed": lambda llm: (
        PROMPT | llm | TEXT | RunnableBranch((lambda s: "know" in s, step()), RunnablePassthrough())
    ),
    "one_of_many": lambda llm: PROMPT | llm | TEXT | (lambda s: [s]) | step().map() | itemgetter(0),
    "messages": lambda llm: PROMPT | llm | (lambda m: {"messages": [m]}) | step(),
    "after_a_tool": lambda llm: tool_turn | RunnablePassthrough() | llm | TEXT | step(),
    "prefilled": lambda llm: PREFILLED | llm | TEXT | step(),
    "in_other_threads": in_other_threads,
    "copied": lambda llm: copy.deepcopy(PROMPT | llm | TEXT | step()),
    "aligned_model_alone": lambda llm: PROMPT | AlignedChatModel(llm=llm, aligner=aligner()),
    "after": lambda llm: step(on_guess="raise").after(PROMPT | llm | TEXT),
    "graph": graph,
}
SHAPES = NAMED | MORE
_WANTED = {
    "changed_text": lambda q: want(q, ALIKE.upper()),
    "cut_text": lambda q: want(q, ALIKE[:8]),
    "rewritten_text": lambda q: want(q, "Quite another."),
    "streamed_inside": lambda q: want(f"inner {q}"),
    "asked_inside": lambda q: want(f"inner {q}"),
    "in_other_threads": lambda q: want(f"inner {q}"),
    "rewriter_before": lambda q: want(REWRITTEN),
    "rewriter_in_assign": lambda q: want(REWRITTEN),
    "rewriter_alike": lambda q: want(ALIKE),
}


def wanted(shape, question):
    """What a chain of this shape says in the end."""
    return _WANTED.get(shape, want)(question)


def told(result):
    """The text of what came out of a chain."""
    if isinstance(result, dict):
        return told(result["answer"] if "answer" in result else result["messages"][-1])
    if isinstance(result, list):
        return "".join(block["text"] for block in result)
    return text(result).strip()


# Ways to ask many questions: each returns one result a question, in order --------------------------------------------


def invoke(runnable, questions):
    return [runnable.invoke({"q": q}) for q in questions]


def batch(runnable, questions):
    return runnable.batch([{"q": q} for q in questions])


def gather(runnable, questions):
    async def run():
        return await asyncio.gather(*(runnable.ainvoke({"q": q}) for q in questions))

    return asyncio.run(run())


def abatch(runnable, questions):
    return asyncio.run(runnable.abatch([{"q": q} for q in questions]))


def stream(runnable, questions):
    """All streams are open at the same time, and read in turns."""
    streams = [runnable.stream({"q": q}) for q in questions]
    chunks = [[] for _ in questions]
    waiting = list(range(len(questions)))
    while waiting:
        for i in list(waiting):
            if (chunk := next(streams[i], None)) is None:
                waiting.remove(i)
            else:
                chunks[i].append(chunk)
    return [total(parts) for parts in chunks]


def astream(runnable, questions):
    async def run():
        return await asyncio.gather(*(astreamed(runnable, {"q": q}) for q in questions))

    return [total(chunks) for chunks in asyncio.run(run())]


def events(runnable, questions):
    async def one(q):
        last = [event async for event in runnable.astream_events({"q": q}, version="v2")][-1]
        assert last["event"] == "on_chain_end"
        return last["data"]["output"]

    async def run():
        return await asyncio.gather(*map(one, questions))

    return asyncio.run(run())


def threads(runnable, questions):
    return on_threads(lambda q: runnable.invoke({"q": q}), questions)


WAYS = [invoke, batch, gather, abatch, stream, astream, events, threads]
