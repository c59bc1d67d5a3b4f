"""What the look-up does where chains branch, guess, cache, or ask several LLMs: the right question, or an error."""

import asyncio
import threading
from operator import itemgetter
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManager
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
)
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool

from aligner_integrations.errors import QuestionNotFoundError
from aligner_integrations.langchain.question.recorder import INTERNAL_TAG
from tests.unit.langchain.support import ALIKE, OTHER_PROMPT, PROMPT, Names, Upstream, step, text, total, want

MANY = [f"question {i}" for i in range(100)]


@pytest.mark.parametrize("run", [lambda c: c.invoke({"q": "x"}), lambda c: asyncio.run(c.ainvoke({"q": "x"}))])
def test_parallel_branches_each_with_an_aligner(run):
    llm = Upstream(delay=0.002)
    chain = RunnableParallel(
        a=PROMPT | llm | StrOutputParser() | step(), b=OTHER_PROMPT | llm | StrOutputParser() | step()
    )
    assert run(chain) == {"a": want("x"), "b": want("other x")}


def test_parallel_branches_streamed():
    llm = Upstream(delay=0.002)
    chain = RunnableParallel(
        a=PROMPT | llm | StrOutputParser() | step(), b=OTHER_PROMPT | llm | StrOutputParser() | step()
    )
    assert total(chain.stream({"q": "x"})) == {"a": want("x"), "b": want("other x")}


def test_message_of_one_branch_is_known_by_its_id():
    llm = Upstream(delay=0.002)
    chain = RunnableParallel(a=PROMPT | llm, b=OTHER_PROMPT | llm) | itemgetter("a") | step()
    result = chain.invoke({"q": "x"})
    assert result.text == want("x")
    assert result.response_metadata["aligner"]["question_from"] == "id"


def test_text_of_one_branch_is_known_by_itself_unless_the_branches_say_the_same():
    def chain(other):
        branches = RunnableParallel(
            a=PROMPT | Upstream() | StrOutputParser(), b=OTHER_PROMPT | other | StrOutputParser()
        )
        return branches | itemgetter("b") | step()

    assert chain(Upstream(answer="No.")).invoke({"q": "x"}) == want("other x", "No.")
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        chain(Upstream()).invoke({"q": "x"})


def test_answers_of_one_run_that_say_the_same_are_never_mixed_up():
    llm = Upstream()
    questions = ["one", "two"]
    ask_all = RunnableLambda(lambda qs: [llm.invoke(q) for q in qs])
    messages = ask_all | RunnableLambda(lambda answers: step().batch(answers))
    assert [text(m) for m in messages.invoke(questions)] == [want(q) for q in questions]
    for change in (str, str.lower):
        texts = ask_all | RunnableLambda(lambda ms, change=change: [change(m.text) for m in ms])
        with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
            (texts | RunnableLambda(lambda answers: step().batch(answers))).invoke(questions)


class Together(Upstream):
    """Answers once three calls are under way."""

    barrier: Any

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.barrier.wait(60)
        return self._result()


def test_llm_calls_that_overlapped_are_no_ground_for_a_guess():
    ask_all = RunnableLambda(lambda qs: Together(barrier=threading.Barrier(3)).batch(qs))
    chain = ask_all | RunnableLambda(lambda ms: step().invoke("No."))
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        chain.invoke(["one", "two", "three"])


def test_several_samples_of_one_question_are_no_ambiguity():
    samples = RunnableLambda(lambda q: [Upstream().invoke(q).text for _ in range(3)])
    chain = samples | RunnableLambda(lambda answers: step().batch(answers))
    assert chain.invoke("x") == [want("x")] * 3


def test_query_rewriter_before_the_answer():
    """Two LLMs one after the other, and the answer rewritten beyond recognition: the later one counts, as a guess."""
    chain = (
        OTHER_PROMPT
        | Upstream(answer="A rewritten query.")
        | StrOutputParser()
        | RunnableLambda(lambda rewritten: {"q": rewritten})
        | PROMPT
        | Upstream()
        | RunnableLambda(lambda message: "Ja.")
    )
    assert (chain | step()).invoke({"q": "x"}) == want("A rewritten query.", "Ja.")
    with pytest.raises(QuestionNotFoundError, match="guessed \\(latest\\)"):
        (chain | step(on_guess="raise")).invoke({"q": "x"})


def test_guess_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr("aligner_integrations.langchain.tasks._guesses_logged", set())
    chain = RunnableLambda(lambda q: "A fixed answer.") | step()
    chain.batch(["x", "y", "z"])
    chain.invoke("x")
    assert [(r.levelname, r.args) for r in caplog.records] == [("WARNING", ("chain_input",))]


def test_lambda_that_asks_an_llm_inside():
    llm = Upstream(delay=0.002)
    sync = RunnableLambda(lambda d: llm.invoke("inner " + d["q"]).text) | step()
    assert sync.invoke({"q": "x"}) == want("inner x")

    async def ask(d):
        return (await llm.ainvoke("inner " + d["q"])).text

    async def run():
        return await asyncio.gather(*((RunnableLambda(ask) | step()).ainvoke({"q": q}) for q in MANY))

    assert asyncio.run(run()) == [want(f"inner {q}") for q in MANY]


def test_branch_lambda_returning_a_chain_and_map():
    llm = Upstream(delay=0.002)
    branch = RunnableBranch((lambda d: d["q"] == "x", PROMPT | llm), OTHER_PROMPT | llm) | step()
    assert [text(m) for m in branch.batch([{"q": "x"}, {"q": "y"}])] == [want("x"), want("other y")]
    assert text((RunnableLambda(lambda d: PROMPT | llm) | step()).invoke({"q": "y"})) == want("y")
    mapped = (PROMPT | llm | StrOutputParser() | step()).map()
    assert mapped.invoke([{"q": q} for q in MANY[:10]]) == [want(q) for q in MANY[:10]]


@pytest.mark.parametrize("value", ["what?", {"question": "what?", "k": 3}, {"anything": "what?"}])
def test_upstream_that_is_no_llm_takes_the_input_of_the_chain(value):
    chain = RunnableLambda(lambda given: "A fixed answer.") | RunnableLambda(lambda s: s + "..") | step()
    wanted = want("what?", "A fixed answer...")
    assert chain.invoke(value) == wanted
    assert chain.batch([value]) == [wanted]
    assert asyncio.run(chain.ainvoke(value)) == wanted
    assert "".join(chain.stream(value)) == wanted


def test_upstream_that_is_no_llm_takes_the_prompt():
    chain = PROMPT | RunnableLambda(lambda prompt: AIMessage("From elsewhere.")) | step(on_guess="raise")
    for result in (chain.invoke({"q": "x"}), total(chain.stream({"q": "x"}))):
        assert result.text == want("x", "From elsewhere.")
        assert result.response_metadata["aligner"]["question_from"] == "prompt"


def test_completion_model_and_caches():
    chain = PROMPT | FakeStreamingListLLM(responses=["One.", "Two."], cache=InMemoryCache()) | step()
    # Flattened, the prompt would be "System: Be nice.\nHuman: x". From the cache there is no LLM call at all.
    assert chain.invoke({"q": "x"}) == chain.invoke({"q": "x"}) == want("x", "One.")
    cached = PROMPT | Upstream(cache=InMemoryCache())
    for chain in (cached | step(), cached | StrOutputParser() | step()):
        assert [text(chain.invoke({"q": "x"})) for _ in range(3)] == [want("x")] * 3


def test_prompt_newer_than_any_llm_call_counts():
    """A rewriter, then a cached completion: only the second prompt led to the answer."""
    rewriter = (
        OTHER_PROMPT | Upstream(answer="A rewritten query.") | StrOutputParser() | RunnableLambda(lambda s: {"q": s})
    )
    chain = rewriter | PROMPT | RunnableLambda(lambda prompt: "From a cache.") | step()
    assert chain.invoke({"q": "x"}) == want("A rewritten query.", "From a cache.")


def test_one_message_object_for_every_question():
    llm = Upstream(message={"id": "fixed"})
    chain = PROMPT | llm | step()
    assert [text(chain.invoke({"q": q})) for q in MANY[:3]] == [want(q) for q in MANY[:3]]
    assert [text(m) for m in chain.batch([{"q": q} for q in MANY])] == [want(q) for q in MANY]


def test_bare_calls():
    llm = Upstream()
    assert step().invoke(llm.invoke("hello")).text == want("hello")
    assert [m.text for m in step().batch(llm.batch(MANY))] == [want(q) for q in MANY]
    for lost in (llm.invoke("hello").text, AIMessage(ALIKE)):
        with pytest.raises(QuestionNotFoundError, match="No question was found"):
            step().invoke(lost)


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")  # still in wide use
def test_message_history():
    store = {}
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{q}")])
    chain = RunnableWithMessageHistory(
        prompt | Upstream() | step(),
        lambda session_id: store.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="q",
        history_messages_key="history",
    )
    config = {"configurable": {"session_id": "1"}}
    assert [chain.invoke({"q": q}, config).text for q in ("one", "two")] == [want("one"), want("two")]
    assert [m.text for m in store["1"].messages] == ["one", want("one"), "two", want("two")]


def test_tool_that_holds_a_chain():
    @tool
    def ask(q: str) -> str:
        """Ask."""
        return (PROMPT | Upstream() | StrOutputParser() | step()).invoke({"q": q})

    assert ask.invoke({"q": "x"}) == want("x")


def test_llm_calls_of_the_aligner_itself_are_not_the_upstream():
    """An accept function or a backend may ask an LLM; a second aligner must not take that for the question."""
    judge = Upstream(answer="yes")

    def accept(question, answer, correction):
        return judge.invoke(f"Is {correction} better?").text == "yes"

    first = step(lambda prompt: "Corrected.")
    first.aligner = first.aligner.with_options(accept=accept)
    chain = PROMPT | Upstream() | StrOutputParser() | first | RunnableLambda(lambda s: "Ja.") | step(on_guess="raise")
    assert chain.invoke({"q": "x"}) == want("x", "Ja.")
    assert chain.batch([{"q": "x"}, {"q": "y"}]) == [want("x", "Ja."), want("y", "Ja.")]
    assert asyncio.run(chain.abatch([{"q": "x"}, {"q": "y"}])) == [want("x", "Ja."), want("y", "Ja.")]
    # The same within a run that has other steps: a batch gets no context of its own from LangChain.
    inside = RunnableLambda(lambda s: first.batch([s])[0], afunc=lambda s: abatch_one(first, s))
    chain = PROMPT | Upstream() | StrOutputParser() | inside | RunnableLambda(lambda s: "Ja.") | step(on_guess="raise")
    assert chain.invoke({"q": "x"}) == want("x", "Ja.")
    assert asyncio.run(chain.ainvoke({"q": "x"})) == want("x", "Ja.")


def test_llm_call_with_the_internal_tag_is_not_the_upstream():
    tagged = Upstream(answer="Ja.").with_config(tags=[INTERNAL_TAG])
    chain = PROMPT | Upstream() | RunnableLambda(lambda m: tagged.invoke("internal").text) | step(on_guess="raise")
    assert chain.invoke({"q": "x"}) == want("x", "Ja.")


async def abatch_one(runnable, value):
    return (await runnable.abatch([value]))[0]


def test_second_aligner_knows_the_text_of_the_first():
    """With two LLMs in the chain, nothing but the first aligner's text leads to the question."""
    rewriter = (
        OTHER_PROMPT | Upstream(answer="A rewritten query.") | StrOutputParser() | RunnableLambda(lambda s: {"q": s})
    )
    answered = rewriter | PROMPT | Upstream() | StrOutputParser()
    chain = answered | step(lambda prompt: "Quite another text.") | step(on_guess="raise")
    wanted = want("A rewritten query.", "Quite another text.")
    assert chain.invoke({"q": "x"}) == wanted
    assert asyncio.run(chain.ainvoke({"q": "x"})) == wanted
    assert "".join(chain.stream({"q": "x"})) == wanted


def test_llm_that_failed_is_not_the_upstream():
    failing = Upstream(fails=True).with_fallbacks([RunnableLambda(lambda prompt: "A fixed answer.")])
    chain = RunnableLambda(lambda q: "other " + q) | failing | step()
    assert chain.invoke("x") == want("x", "A fixed answer.")


def test_question_can_be_picked_by_the_caller():
    def whole(messages):
        return " / ".join(m.text for m in messages)

    chain = PROMPT | Upstream() | step(question=whole)
    assert chain.invoke({"q": "x"}).text == want("Be nice. / x")


def test_last_human_message_is_the_question():
    llm = Upstream()
    chain = llm | step()
    turns = [("human", "one"), ("ai", "an answer"), ("human", [{"type": "text", "text": "two"}]), ("ai", "hm")]
    assert chain.invoke(turns).text == want("two")
    assert chain.invoke([("system", "only this")]).text == want("only this")
    with pytest.raises(QuestionNotFoundError, match="no text in it"):
        chain.invoke([("ai", "hm")])


def test_no_callbacks_and_callbacks_of_the_user():
    seen = Names()
    chain = PROMPT | Upstream() | step()
    for callbacks in ([], CallbackManager([]), [seen]):
        assert chain.invoke({"q": "x"}, {"callbacks": callbacks}).text == want("x")
    assert seen.names == ["RunnableSequence", "ChatPromptTemplate", "AlignerRunnable", "correction"]
