"""The runnable as a citizen of LangChain: errors, cancelling, copies, options, and what it leaves behind."""

import asyncio
import copy
import pickle
import subprocess
import sys
import threading

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda

from aligner_integrations import AlignerRunnable
from aligner_integrations.errors import (
    BackendError,
    ConfigurationError,
    EmptyCorrectionError,
    InvalidTextError,
    QuestionNotFoundError,
    UnsupportedValueError,
)
from aligner_integrations.langchain.question import recorder
from aligner_integrations.langchain.question.recorder import RECORDER
from tests.unit.langchain.support import ALIKE, PROMPT, Backend, Upstream, aligner, held, mark, step, total, want


def fail_on_bad(prompt):
    if "bad" in prompt:
        raise ValueError("cannot do that")
    return mark(prompt)


# Errors -------------------------------------------------------------------------------------------------------------


def test_error_of_the_upstream_leaves_nothing():
    chain = PROMPT | Upstream(fails=True) | step()
    for call in (
        lambda: chain.invoke({"q": "x"}),
        lambda: list(chain.stream({"q": "x"})),
        lambda: chain.batch([{"q": "x"}]),
    ):
        with pytest.raises(RuntimeError, match="down"):
            call()
        assert held() == 0
    results = chain.batch([{"q": "x"}, {"q": "y"}], return_exceptions=True)
    assert [type(r) for r in results] == [RuntimeError, RuntimeError]


def test_error_of_the_aligner():
    chain = PROMPT | Upstream() | step(fail_on_bad)
    for call in (
        lambda: chain.invoke({"q": "bad"}),
        lambda: asyncio.run(chain.ainvoke({"q": "bad"})),
        lambda: list(chain.stream({"q": "bad"})),
        lambda: chain.batch([{"q": "good"}, {"q": "bad"}]),
    ):
        with pytest.raises(BackendError, match="cannot do that"):
            call()
        assert held() == 0


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_each_value_of_a_batch_fails_alone(way):
    values = [
        {"question": "one", "answer": ALIKE},
        {"question": "bad", "answer": ALIKE},
        7,
        AIMessage(ALIKE),
        {"question": "two", "answer": ALIKE},
        AIMessage(""),
    ]
    runnable = AlignerRunnable(aligner(fail_on_bad), question=lambda messages: messages[0].text)

    def run(**options):
        if way == "batch":
            return runnable.batch(values, **options)
        return asyncio.run(runnable.abatch(values, **options))

    one, bad, seven, lost, two, empty = run(return_exceptions=True)
    assert (one["answer"], two["answer"]) == (want("one"), want("two"))
    assert [type(e) for e in (bad, seven, lost)] == [BackendError, UnsupportedValueError, QuestionNotFoundError]
    assert empty.response_metadata["aligner"]["reason"] == "no_text"
    assert runnable.aligner.backend.batches == [3]
    with pytest.raises(BackendError):
        run()


def test_policy_of_the_aligner_counts():
    value = {"question": "bad", "answer": AIMessage(ALIKE)}
    kept = AlignerRunnable(aligner(fail_on_bad, on_error="keep"))
    for result in (kept.invoke(value), total(kept.stream(value))):
        assert result["answer"].text == ALIKE
        record = result["answer"].response_metadata["aligner"]
        assert (record["outcome"], record["changed_share"]) == ("failed", 0.0)
        assert "BackendError" in record["reason"]
    blocked = AlignerRunnable(aligner(fail_on_bad, on_error="block", block_message="Withheld."))
    for result in (blocked.invoke(value), total(blocked.stream(value))):
        assert result["answer"].text == "Withheld."


def test_question_function_that_fails_or_gives_no_text():
    def broken(messages):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        (PROMPT | Upstream() | step(question=broken)).invoke({"q": "x"})
    with pytest.raises(InvalidTextError, match="question= must return a string, got HumanMessage"):
        (PROMPT | Upstream() | step(question=lambda messages: messages[-1])).invoke({"q": "x"})


# Memory -------------------------------------------------------------------------------------------------------------


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(recorder, "MAX_ROOT_CALLS", 10)
    for _ in range(25):
        Upstream().invoke("x")
    assert RECORDER.sizes()["root_calls"] == 10
    monkeypatch.setattr(recorder, "MAX_SCOPES", 3)

    def deeper(n):
        if n == 0:
            assert RECORDER.sizes()["scopes"] == 3
            return ALIKE
        return RunnableLambda(deeper).invoke(n - 1)

    RunnableLambda(deeper).invoke(5)


def test_forgotten_llm_calls_are_ambiguous_by_text_and_known_by_id(monkeypatch):
    monkeypatch.setattr(recorder, "MAX_CALLS", 3)
    answers = RunnableLambda(lambda qs: [Upstream(answer=q).invoke(q) for q in qs])
    questions = [str(i) for i in range(5)]
    last = answers | RunnableLambda(lambda ms: step().invoke(ms[-1]))
    assert last.invoke(questions).text == want("4", "4")
    last = answers | RunnableLambda(lambda ms: step().invoke(ms[-1].text))
    with pytest.raises(QuestionNotFoundError, match="Several questions fit"):
        last.invoke(questions)


def test_recorder_is_one_in_a_process():
    assert copy.deepcopy(RECORDER) is RECORDER
    assert pickle.loads(pickle.dumps(RECORDER)) is RECORDER  # noqa: S301 - made one line before
    from langchain_core.tracers.context import _configure_hooks

    before = len(_configure_hooks)
    for _ in range(3):
        step()
    assert len(_configure_hooks) == before
    assert sum(hook[0] is recorder._hook for hook in _configure_hooks) == 1


# Options, copies, composition ----------------------------------------------------------------------------------------


def test_options_of_the_aligner_and_of_the_runnable():
    runnable = AlignerRunnable(backend=Backend(mark), template="{question}||{answer}", on_error="keep")
    assert runnable.aligner.policy.on_error == "keep"
    assert runnable.invoke({"question": "x", "answer": ALIKE})["answer"] == want("x")
    one = aligner()
    assert AlignerRunnable(one).aligner is AlignerRunnable(aligner=one).aligner is one
    with pytest.raises(ConfigurationError, match="not both: gate, rounds"):
        AlignerRunnable(one, rounds=2, gate=1.0)
    with pytest.raises(ConfigurationError, match="must be an Aligner, got str"):
        AlignerRunnable("aligner/aligner-7b-v1.0")
    with pytest.raises(ConfigurationError, match="on_guess is 'maybe'"):
        AlignerRunnable(one, on_guess="maybe")
    with pytest.raises(TypeError, match="no_such_option"):
        AlignerRunnable(no_such_option=1)


def test_fields_of_the_template_are_bound():
    runnable = step(lambda prompt: prompt)
    runnable.aligner = runnable.aligner.with_options(template="{question}|{answer}|{aspects}")
    bound = runnable.bind(aspects="kind")
    value = {"question": "q", "answer": "a"}
    results = [bound.invoke(value), bound.batch([value])[0], total(bound.stream(value))]
    results.append(asyncio.run(bound.ainvoke(value)))
    results.append(asyncio.run(bound.abatch([value]))[0])
    assert [r["answer"] for r in results] == ["q|a|kind"] * 5
    with pytest.raises(ConfigurationError, match="aspects"):
        runnable.invoke(value)


def test_retry_and_fallback():
    calls = []

    def flaky(prompt):
        calls.append(prompt)
        if len(calls) < 3:
            raise ValueError("not yet")
        return mark(prompt)

    chain = PROMPT | Upstream() | step(flaky).with_retry(wait_exponential_jitter=False, stop_after_attempt=3)
    assert chain.invoke({"q": "x"}).text == want("x")
    assert len(calls) == 3
    chain = (
        PROMPT
        | Upstream()
        | step(lambda prompt: "").with_fallbacks([step()], exceptions_to_handle=(EmptyCorrectionError,))
    )
    assert [m.text for m in chain.batch([{"q": "x"}, {"q": "y"}])] == [want("x"), want("y")]


def test_copies_and_pickles_work():
    runnable = AlignerRunnable(aligner(mark), on_guess="raise")
    restored = pickle.loads(pickle.dumps(runnable))  # noqa: S301 - made one line before
    assert restored.on_guess == "raise"
    for one in (copy.copy(runnable), copy.deepcopy(runnable), restored):
        assert (PROMPT | Upstream() | one).invoke({"q": "x"}).text == want("x")


def test_an_unpickled_runnable_installs_the_recorder_in_its_process(tmp_path):
    path = tmp_path / "runnable.pickle"
    path.write_bytes(pickle.dumps(step()))
    program = (
        "import pickle, sys\n"
        "import aligner_integrations.langchain\n"
        "from langchain_core.tracers.context import _configure_hooks\n"
        "from tests.unit.langchain.support import PROMPT, Upstream\n"
        "before = len(_configure_hooks)\n"
        "step = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(len(_configure_hooks) - before, (PROMPT | Upstream() | step).invoke({'q': 'x'}).text)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"1 {want('x')}"


def test_importing_installs_no_hook():
    program = (
        "from langchain_core.tracers.context import _configure_hooks\n"
        "before = len(_configure_hooks)\n"
        "import aligner_integrations.langchain\n"
        "print(len(_configure_hooks) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_missing_langchain_names_the_extra():
    program = (
        "import sys\n"
        "sys.modules['langchain_core'] = None\n"
        "from aligner_integrations.errors import MissingDependencyError\n"
        "try:\n"
        "    from aligner_integrations import AlignerRunnable\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'aligner-integrations[langchain]'" in done.stdout


def test_graph_and_schema_of_a_chain_can_be_asked():
    chain = PROMPT | Upstream() | step()
    assert "AlignerRunnable" in {node.name for node in chain.get_graph().nodes.values()}
    assert chain.get_output_jsonschema() is not None
    assert step().get_name() == "AlignerRunnable"


def test_fields_are_configurable():
    runnable = step().configurable_fields(
        aligner=ConfigurableField(id="aligner"), include_original=ConfigurableField(id="original")
    )
    other = {"configurable": {"aligner": aligner(lambda prompt: "Other."), "original": True}}
    chain = PROMPT | Upstream() | runnable
    assert chain.invoke({"q": "x"}).text == want("x")
    for result in (chain.invoke({"q": "x"}, other), total(chain.stream({"q": "x"}, other))):
        assert result.text == "Other."
        assert result.response_metadata["aligner"]["original"] == ALIKE
    either = step().configurable_alternatives(ConfigurableField(id="which"), none=RunnableLambda(lambda m: m))
    assert (PROMPT | Upstream() | either.with_config(configurable={"which": "none"})).invoke({"q": "x"}).text == ALIKE


def test_dumped_without_secrets():
    runnable = step()
    runnable.aligner.backend.api_key = "s3cret-key"
    for one in (runnable, PROMPT | runnable, runnable.after(PROMPT | Upstream())):
        assert "s3cret-key" not in str(dumpd(one)) + repr(one)


def test_schemas_say_what_goes_in_and_out():
    for schema in (step().get_input_jsonschema(), step().get_output_jsonschema()):
        kinds = {part.get("type") or part["$ref"].rpartition("/")[-1] for part in schema["anyOf"]}
        assert kinds == {"string", "AIMessage", "array", "object"}


def test_concurrency_of_the_upstream_is_limited_and_the_aligner_still_has_one_batch():
    running, most = [], []
    in_pairs = threading.Barrier(2)

    def slowly(prompt):
        running.append(prompt)
        most.append(len(running))
        in_pairs.wait(60)
        running.remove(prompt)
        return AIMessage(ALIKE)

    runnable = step()
    chain = PROMPT | RunnableLambda(slowly) | runnable
    values = [{"q": str(i)} for i in range(8)]
    results = chain.batch(values, {"max_concurrency": 2})
    assert [r.text for r in results] == [want(str(i)) for i in range(8)]
    assert max(most) == 2 and runnable.aligner.backend.batches == [8]


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
async def test_event_log_adds_up_to_the_answer():
    log = None
    async for patch in (PROMPT | Upstream() | step()).astream_log({"q": "x"}):
        log = patch if log is None else log + patch
    assert log.state["final_output"].text == want("x")
    assert total(log.state["streamed_output"]).text == want("x")
