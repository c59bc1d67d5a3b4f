"""Where the question is taken from: options, switches, and what happens where the look-up cannot know."""

import asyncio
import copy
import os
import pickle
import subprocess
import sys
from typing import TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from aligner_integrations.errors import ConfigurationError, QuestionNotFoundError
from aligner_integrations.langchain.question import recorder
from aligner_integrations.langchain.question.recorder import RECORDER
from tests.unit.langchain.support import (
    ALIKE,
    PROMPT,
    Names,
    Upstream,
    asked_in_a_pool,
    astreamed,
    repeat,
    step,
    text,
    total,
    want,
)

RAG = ChatPromptTemplate.from_messages(
    [("system", "Be nice."), ("human", "Context: {context}\n\nQuestion: {question}\nAnswer from the context.")]
)
MANY = [f"question {i}" for i in range(30)]


def rag(runnable, llm=None):
    retriever = RunnableLambda(lambda question: f"documents about {question}")
    return {"context": retriever, "question": RunnablePassthrough()} | RAG | (llm or Upstream()) | runnable


# A variable of the prompt template ----------------------------------------------------------------------------------


def test_variable_of_the_prompt_template():
    chain = rag(step(question="question", on_guess="raise"))
    assert chain.invoke("x").text == want("x")
    assert total(chain.stream("x")).text == want("x")
    assert asyncio.run(chain.ainvoke("x")).text == want("x")
    assert [m.text for m in chain.batch(MANY)] == [want(q) for q in MANY]
    parsed = rag(StrOutputParser() | step(question="question"), Upstream(delay=0.002))

    async def run():
        return await asyncio.gather(*map(parsed.ainvoke, MANY))

    assert asyncio.run(run()) == [want(q) for q in MANY]
    whole = rag(step()).invoke("x").text  # without the option: all of the last human message
    assert whole.startswith("[Context: documents about x")


def test_variable_of_the_prompt_and_not_of_the_chain():
    """A rewriter before the answer: the variable is that of the prompt which the LLM was given."""
    rewrite = RunnableLambda(lambda d: {"question": "better " + d["question"], "context": "c"})
    chain = rewrite | RAG | Upstream() | step(question="question")
    assert chain.invoke({"question": "x"}).text == want("better x")


def test_variable_with_messages_and_the_only_variable():
    prompt = ChatPromptTemplate.from_messages(
        [("system", "{context}"), ("placeholder", "{turns}"), ("human", "Go on.")]
    )
    chain = prompt | Upstream() | step(question="turns")
    assert chain.invoke({"context": "c", "turns": [("human", "one"), ("ai", "hm")]}).text == want("one")
    chain = PromptTemplate.from_template("Long words around {q} it.") | Upstream() | step(question="q")
    assert chain.invoke("x").text == want("x")
    assert chain.invoke({"q": "x"}).text == want("x")


def test_key_of_the_chains_input_where_no_template_was_used():
    def ask(given):
        return Upstream().invoke(f"Context and {given['topic']}")

    assert (RunnableLambda(ask) | step(question="topic", on_guess="raise")).invoke({"topic": "x", "k": 3}).text == want(
        "x"
    )
    fixed = RunnableLambda(lambda given: "A fixed answer.") | step(question="topic", on_guess="raise")
    assert fixed.invoke({"other": "y", "topic": "x"}) == want("x", "A fixed answer.")


def test_named_question_beside_the_answer():
    value = {"topic": "x", "question": "y", "answer": ALIKE}
    assert step(question="topic").invoke(value)["answer"] == want("x")
    assert step(question="missing").invoke(value)["answer"] == want("y")


def test_unknown_variable_is_an_error_that_names_it():
    with pytest.raises(QuestionNotFoundError, match="question='nothing': neither the prompt template nor an input"):
        (PROMPT | Upstream() | step(question="nothing")).invoke({"q": "x"})
    with pytest.raises(QuestionNotFoundError, match="question='q'"):
        (PROMPT | Upstream() | step(question="q")).invoke({"q": 7})
    for wrong in ("", 7):
        with pytest.raises(ConfigurationError, match="takes a function or the name of a variable"):
            step(question=wrong)


def test_where_the_question_came_from_is_on_record():
    def told(chain, value):
        return chain.invoke(value).response_metadata["aligner"]["question_from"]

    assert told(PROMPT | Upstream() | step(), {"q": "x"}) == "id"
    assert told(PROMPT | Upstream() | (lambda m: AIMessage(m.text)) | step(), {"q": "x"}) == "text"
    assert told(PROMPT | Upstream() | (lambda m: AIMessage(m.text.upper())) | step(), {"q": "x"}) == "near"
    assert told(PROMPT | Upstream() | (lambda m: AIMessage("Ja.")) | step(), {"q": "x"}) == "only"
    assert told(PROMPT | RunnableLambda(lambda p: AIMessage("Ja.")) | step(), {"q": "x"}) == "prompt"
    assert told(RunnableLambda(lambda q: AIMessage("Ja.")) | step(), "x") == "chain_input"


# Without the process-wide hook ----------------------------------------------------------------------------------------


def run_python(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITHOUT_HOOK = """
from langchain_core.tracers.context import _configure_hooks
import aligner_integrations.langchain
before = len(_configure_hooks)
from aligner_integrations.errors import QuestionNotFoundError
from langchain_core.output_parsers import StrOutputParser
from tests.unit.langchain.support import PROMPT, Upstream, step
one = step({options})
try:
    (PROMPT | Upstream() | StrOutputParser() | one).invoke({{"q": "x", "r": "y"}})
except QuestionNotFoundError as error:
    print(type(error).__name__, "after(chain)" in str(error))
chain = one.after(PROMPT | Upstream() | StrOutputParser())
print(chain.invoke({{"q": "x"}}), "".join(chain.stream({{"q": "z"}})), len(_configure_hooks) - before)
"""


@pytest.mark.parametrize("switch", ["option", "environment"])
def test_no_hook_and_still_the_right_question_after_a_chain(switch):
    options = "hook=False" if switch == "option" else ""
    environment = {} if switch == "option" else {"ALIGNER_NO_UPSTREAM": "1"}
    lines = run_python(WITHOUT_HOOK.format(options=options), **environment).splitlines()
    assert lines == ["QuestionNotFoundError True", f"{want('x')} {want('z')} 0"]


def test_recording_can_be_switched_off_for_some_code():
    chain = PROMPT | Upstream() | StrOutputParser() | step()
    with recorder.disabled(), pytest.raises(QuestionNotFoundError, match="No question was found"):
        chain.invoke({"q": "x"})
    assert chain.invoke({"q": "x"}) == want("x")


@pytest.mark.parametrize("parse", [False, True])
def test_after_a_chain_in_every_way(parse):
    inner = PROMPT | Upstream(delay=0.002) | (StrOutputParser() if parse else RunnablePassthrough())
    chain = step(on_guess="raise").after(inner)

    async def gather():
        return await asyncio.gather(*(chain.ainvoke({"q": q}) for q in MANY))

    with recorder.disabled():
        assert text(chain.invoke({"q": "x"})) == want("x")
        assert text(total(chain.stream({"q": "x"}))) == want("x")
        assert text(total(asyncio.run(astreamed(chain, {"q": "x"})))) == want("x")
        assert [text(m) for m in chain.batch([{"q": q} for q in MANY])] == [want(q) for q in MANY]
        assert [text(m) for m in asyncio.run(gather())] == [want(q) for q in MANY]
        two = step(on_guess="raise").after(step(repeat).after(inner))
        assert text(two.invoke({"q": "x"})) == want("x")
        for one in (copy.deepcopy(chain), pickle.loads(pickle.dumps(step().after(PROMPT | Upstream())))):  # noqa: S301
            assert text(one.invoke({"q": "x"})) == want("x")
    own = chain.bound.last._recorder
    assert own is not RECORDER
    assert (own.sizes()["scopes"], own.sizes()["calls"]) == (0, 0)


def test_after_a_chain_keeps_the_callbacks_of_the_runs_around_it():
    seen = Names()
    chain = step().after(PROMPT | Upstream())
    RunnableLambda(lambda given: chain.invoke(given)).invoke({"q": "x"}, {"callbacks": [seen]})
    assert "RunnableSequence" in seen.names and "AlignerRunnable" in seen.names


# Where the look-up cannot know ----------------------------------------------------------------------------------------


def asked_without_callbacks(question):
    return Upstream().invoke(question, {"callbacks": []})


@pytest.mark.parametrize("asked", [asked_in_a_pool, asked_without_callbacks])
def test_llm_call_that_reports_to_no_run_of_the_chain(asked):
    """The message is known by its id; its bare text leaves the input of the chain, and that is a guess."""
    ask = RunnableLambda(lambda given: asked("really " + given))
    assert (ask | step(on_guess="raise")).invoke("x").text == want("really x")
    as_text = ask | StrOutputParser()
    assert (as_text | step()).invoke("x") == want("x")
    with pytest.raises(QuestionNotFoundError, match=r"guessed \(chain_input\)"):
        (as_text | step(on_guess="raise")).invoke("x")


def test_aligner_made_after_the_llm_ran():
    program = (
        "from aligner_integrations.errors import QuestionNotFoundError\n"
        "from tests.unit.langchain.support import Upstream, step\n"
        "early = Upstream().invoke('x')\n"
        "one = step()\n"
        "try:\n"
        "    one.invoke(early)\n"
        "except QuestionNotFoundError as error:\n"
        "    print('not found')\n"
        "print(one.invoke(Upstream().invoke('x')).text)\n"
    )
    assert run_python(program).splitlines() == ["not found", want("x")]


class State(TypedDict):
    q: str
    answer: str


def test_resumed_from_a_checkpoint():
    """The LLM ran in a run that is over, maybe in another process; the text in the state tells nothing."""

    def resumed(align):
        builder = StateGraph(State)
        builder.add_node("ask", lambda s: {"answer": Upstream().invoke(s["q"]).text})
        builder.add_node("align", align)
        builder.add_edge(START, "ask")
        builder.add_edge("ask", "align")
        builder.add_edge("align", END)
        app = builder.compile(InMemorySaver(), interrupt_before=["align"])
        config = {"configurable": {"thread_id": "1"}}
        app.invoke({"q": "x"}, config)
        return app.invoke(None, config)["answer"]

    with pytest.raises(QuestionNotFoundError, match="No question was found"):
        resumed(lambda s: {"answer": step().invoke(s["answer"])})
    assert resumed(step(question="q")) == want("x")
