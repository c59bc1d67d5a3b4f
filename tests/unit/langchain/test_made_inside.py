"""An answer that a run was not given was made inside it, and others who were told the same have nothing to do with it."""

import asyncio
import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableBranch, RunnableGenerator, RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from aligner_integrations.errors import QuestionNotFoundError
from tests.unit.langchain.support import ALIKE, OTHER_PROMPT, PROMPT, Upstream, asked_in_a_pool, step, total, want

TEXT = StrOutputParser()


# Chains that run inside another run, one after the other --------------------------------------------------------------


def warm():
    """A cached completion model that has answered "one" before."""
    llm = FakeStreamingListLLM(responses=[ALIKE], cache=InMemoryCache())
    (PROMPT | llm).invoke({"q": "one"})
    return llm


UNSEEN = {
    "cache": lambda: warm(),
    "http": lambda: RunnableLambda(lambda prompt: ALIKE),
    "pool": lambda: RunnableLambda(asked_in_a_pool),
}
READ = {
    "invoke": lambda chain, q: chain.invoke({"q": q}),
    "stream": lambda chain, q: "".join(chain.stream({"q": q})),
    "batch": lambda chain, q: chain.batch([{"q": q}])[0],
    "ainvoke": lambda chain, q: asyncio.run(chain.ainvoke({"q": q})),
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("llm", UNSEEN)
def test_answer_of_an_llm_that_nobody_saw_is_not_that_of_a_neighbour(llm, read):
    """The neighbour was told the same a moment before, in the same run."""
    unseen = PROMPT | UNSEEN[llm]() | TEXT | step(on_guess="raise")

    def run(_):
        (PROMPT | Upstream() | TEXT | step()).invoke({"q": "two"})
        return READ[read](unseen, "one")

    assert RunnableLambda(run).invoke("x") == want("one")


CANNED = {
    "instead": lambda: RunnableBranch((lambda d: d["q"] == "two", PROMPT | Upstream() | TEXT), lambda d: ALIKE),
    "afterwards": lambda: PROMPT | Upstream(answer="As an AI I cannot.") | TEXT | (lambda s: ALIKE),
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("canned", CANNED)
def test_canned_text_that_a_neighbour_was_told_by_an_llm_is_ambiguous(canned, read):
    """Perhaps the run has the answer from outside after all, by a variable of the programmer's own."""
    chain = CANNED[canned]() | step()

    def run(_):
        (PROMPT | Upstream() | TEXT | step()).invoke({"q": "two"})
        return READ[read](chain, "one")

    assert READ[read](chain, "one") == want("one")  # by itself there is no doubt
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        RunnableLambda(run).invoke("x")


def test_answer_by_a_variable_of_the_programmers_own():
    def run(q, inner=None):
        draft = Upstream().invoke(q).text
        return RunnableLambda(lambda _: step(on_guess="raise").invoke(draft)).invoke(inner or q)

    assert RunnableLambda(run).invoke("x") == want("x")
    assert RunnableLambda(lambda q: run(q, {"no": 1, "question": 2})).invoke("x") == want("x")
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        RunnableLambda(lambda q: run(q, "Another question?")).invoke("x")


# Branches side by side ------------------------------------------------------------------------------------------------


def test_branch_without_an_llm_is_not_given_the_question_of_its_neighbour():
    """The neighbour's LLM ran at the same time, so the answer cannot be its."""
    started = threading.Event()

    def slowly(value):
        assert started.wait(60)
        return "A fixed answer."

    def quickly(value):
        answer = Upstream().invoke("the neighbour's question")
        started.set()
        return answer

    chain = RunnableParallel(a=RunnableLambda(slowly) | step(), b=RunnableLambda(quickly))
    assert chain.invoke("x")["a"] == want("x", "A fixed answer.")


@pytest.mark.parametrize("config", [{}, {"max_concurrency": 1}])
@pytest.mark.parametrize("read", [lambda c, *v: c.invoke(*v), lambda c, *v: total(c.stream(*v))])
def test_nor_if_the_neighbour_was_done_before_it_began(read, config):
    done = threading.Event()

    def quickly(value):
        answer = Upstream().invoke("the neighbour's question")
        done.set()
        return answer

    def late(value):
        assert done.wait(60)
        return ALIKE

    chain = RunnableParallel(b=RunnableLambda(quickly), a=RunnableLambda(late) | step())
    assert read(chain, "x", config)["a"] == want("x")


class Fan(TypedDict):
    qs: list[str]
    out: Annotated[list[Any], operator.add]


def test_fan_out_with_some_canned_answers():
    """Whoever has an LLM of its own is right; a canned text among 60 who were told the same is not guessed at."""

    def work(state):
        q = state["q"]
        answer = (lambda given: ALIKE) if q == "7" else Upstream(delay=0.002) | TEXT
        try:
            return {"out": [(q, (RunnableLambda(lambda given: given) | answer | step()).invoke(q))]}
        except QuestionNotFoundError:
            return {"out": [(q, None)]}

    builder = StateGraph(Fan)
    builder.add_node("work", work)
    builder.add_conditional_edges(START, lambda s: [Send("work", {"q": q}) for q in s["qs"]], ["work"])
    builder.add_edge("work", END)
    questions = [str(i) for i in range(60)]
    out = dict(builder.compile().invoke({"qs": questions, "out": []})["out"])
    assert out.pop("7") in (None, want("7"))  # as the others are done or not
    assert out == {q: want(q) for q in questions if q != "7"}


# What was handed in ---------------------------------------------------------------------------------------------------


def judged(answer):
    """Another LLM is asked in the run in which the answer is aligned."""
    (OTHER_PROMPT | Upstream(answer="yes")).invoke({"q": "Is it good?"})
    return step(on_guess="raise").invoke(answer)


HANDED = {
    "alone": lambda: RunnableLambda(judged),
    "in_a_dict": lambda: (lambda s: {"a": [s], "k": 1}) | RunnableLambda(lambda d: judged(d["a"][0])),
    "as_a_message": lambda: (lambda s: AIMessage(s)) | RunnableLambda(lambda m: judged(m).text),
    "in_other_letters": lambda: RunnableLambda(str.upper) | RunnableLambda(judged) | RunnableLambda(str.capitalize),
}


@pytest.mark.parametrize("handed", HANDED)
def test_llm_inside_the_run_that_was_handed_the_answer_is_not_its_source(handed):
    chain = PROMPT | Upstream() | TEXT | HANDED[handed]()
    for result in (chain.invoke({"q": "x"}), chain.batch([{"q": "x"}])[0]):
        assert result.lower() == want("x").lower()


def test_tool_that_is_handed_the_answer():
    @tool
    def polish(answer: str) -> str:
        """Polish."""
        return step(on_guess="raise").invoke(answer)

    ask = RunnableLambda(lambda q: polish.invoke({"answer": Upstream().invoke(f"really {q}").text}))
    assert ask.invoke("x") == want("really x")


def test_prompt_in_the_run_that_was_handed_the_answer_makes_it_ambiguous():
    """Did it lead to the same answer, by an LLM that nobody saw?"""

    def run(answer):
        PROMPT.invoke({"q": "something else"})
        return step().invoke(answer)

    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        (PROMPT | Upstream() | TEXT | RunnableLambda(run)).invoke({"q": "x"})


def test_a_run_that_is_handed_the_answer_tells_nothing_about_the_question():
    with pytest.raises(QuestionNotFoundError, match="No question was found"):
        RunnableLambda(lambda answer: step().invoke(answer)).invoke("I do  not know.")


# Answers of which only the beginning is used --------------------------------------------------------------------------


def first_words(chunks):
    said = ""
    for chunk in chunks:
        said += chunk
        if "do not" in said:
            yield said.strip()
            return


def begun(llm, question, how):
    """The first words of an answer."""
    if how == "close":
        chunks = llm.stream(question)
        said = "".join(next(chunks).text for _ in range(3))
        chunks.close()
        return said

    async def run():
        said = ""
        try:
            async with asyncio.timeout(60) as limit:
                async for chunk in llm.astream(question):
                    said += chunk.text
                    if said.endswith("not "):  # what is to come takes too long
                        limit.reschedule(0)
        except TimeoutError:
            return said

    return asyncio.run(run())


class Hangs(Upstream):
    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in [*self._chunks()][:3]:
            yield chunk
        await asyncio.sleep(30)


@pytest.mark.parametrize("how", ["close", "time_limit"])
def test_stream_that_was_left_is_an_answer(how):
    def ask(q):
        Upstream(answer="A rewritten query.").invoke("rewrite this")
        return begun(Hangs(), f"really {q}", how)

    assert (RunnableLambda(ask) | step(on_guess="raise")).invoke("x") == want("really x", "I do not")


@pytest.mark.parametrize("rewriter", [False, True])
def test_generator_that_has_read_enough(rewriter):
    ask = PROMPT | Upstream() | TEXT | RunnableGenerator(first_words) | step(on_guess="raise")
    if rewriter:  # its messages are made without a template
        query = OTHER_PROMPT | Upstream(answer="A rewritten query.") | TEXT | (lambda s: [HumanMessage(s)])
        ask = query | Upstream() | TEXT | RunnableGenerator(first_words) | step(on_guess="raise")
    wanted = want("A rewritten query." if rewriter else "x", "I do not")
    assert "".join(ask.stream({"q": "x"})) == wanted


def test_llm_that_took_too_long_is_not_the_source():
    class Slow(Upstream):
        async def _agenerate(self, *args, **kwargs):
            asked.set()
            await asyncio.sleep(60)

    asked = asyncio.Event()

    async def ask(q):
        slow = asyncio.create_task(Slow().ainvoke(f"slow {q}"))
        await asked.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow, 0)
        message = await Upstream().ainvoke(f"fast {q}")
        return f"{message.text.upper()}!"

    assert asyncio.run((RunnableLambda(ask) | step(on_guess="raise")).ainvoke("x")) == want(
        "fast x", f"{ALIKE.upper()}!"
    )
