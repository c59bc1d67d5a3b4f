"""`AlignerQueryEngine` within and around LlamaIndex's own engines."""

import subprocess
import sys

import pytest
from llama_index.core import Settings, get_response_synthesizer
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.response.schema import Response, StreamingResponse
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.evaluation import (
    BatchEvalRunner,
    FaithfulnessEvaluator,
    GuidelineEvaluator,
    RelevancyEvaluator,
)
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform, HyDEQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import (
    CustomQueryEngine,
    RetryGuidelineQueryEngine,
    RetryQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool

from aligner_integrations.llama_index import AlignerChatEngine, AlignerQueryEngine, AlignerSynthesizer
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    QUESTION,
    Engine,
    Kept,
    Recorder,
    ScriptedLLM,
    Verdicts,
    make_aligner,
    make_index,
    make_nodes,
    read,
    response_of,
)


class _First(BaseSelector):
    """Always selects the first engine."""

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def _select(self, choices, query):
        return SelectorResult(selections=[SingleSelection(index=0, reason="it is the first")])

    async def _aselect(self, choices, query):
        return self._select(choices, query)


class _Rewrite(BaseQueryTransform):
    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def _run(self, query_bundle, metadata):
        return QueryBundle(f"rewritten: {query_bundle.query_str}")


@pytest.mark.parametrize("streaming", [False, True])
async def test_under_a_router(ask, streaming):
    inner = Kept(make_index().as_query_engine(llm=ScriptedLLM(), streaming=streaming))
    tool = QueryEngineTool.from_defaults(AlignerQueryEngine(inner, make_aligner()))
    response = await ask(RouterQueryEngine(_First(), [tool], llm=MockLLM()), QUESTION)
    assert "".join(await read(response)) == FIXED
    assert response.metadata["selector_result"].ind == 0
    assert response.metadata["aligner"]["outcome"] == "corrected"
    assert "selector_result" not in inner.returned[0].metadata


async def test_around_a_router(ask):
    tool = QueryEngineTool.from_defaults(Engine(lambda query: Response(DRAFT)))
    engine = AlignerQueryEngine(RouterQueryEngine(_First(), [tool], llm=MockLLM()), make_aligner())
    response = await ask(engine, QUESTION)
    assert response.response == FIXED
    assert response.metadata["selector_result"].ind == 0


async def test_as_a_tool():
    inner = Engine(lambda query: Response(DRAFT, make_nodes()))
    tool = QueryEngineTool.from_defaults(AlignerQueryEngine(inner, make_aligner()))
    for output in (tool.call(QUESTION), await tool.acall(input=QUESTION)):
        assert output.content == FIXED
        assert output.raw_output.source_nodes == make_nodes()


@pytest.mark.parametrize("kind", [Response, StreamingResponse])
async def test_around_a_retry_engine(ask, kind, monkeypatch):
    """RetryQueryEngine asks again with more words, and returns a stream that it has read already."""
    monkeypatch.setattr(Settings, "_llm", MockLLM())  # its FeedbackQueryTransformation resolves that one
    fn, evaluator = Recorder(), Verdicts(False, True)
    inner = Engine(lambda query: response_of(kind, *DRAFT.split(" ")))
    response = await ask(AlignerQueryEngine(RetryQueryEngine(inner, evaluator), make_aligner(fn)), QUESTION)
    assert len(inner.queries) == 2
    assert "previous bad answer" in inner.queries[1]
    assert type(response) is kind
    assert "".join(await read(response)) == FIXED.replace(" ", "")
    assert fn.questions == [QUESTION]  # the user's words, and one correction


async def test_under_a_retry_engine(ask):
    evaluator = Verdicts(True)
    inner = Engine(lambda query: Response(DRAFT))
    response = await ask(RetryQueryEngine(AlignerQueryEngine(inner, make_aligner()), evaluator), QUESTION)
    assert evaluator.judged == [response.response] == [FIXED]


async def test_around_a_query_transformation(ask):
    fn, inner = Recorder(), Engine(lambda query: Response(DRAFT))
    response = await ask(AlignerQueryEngine(TransformQueryEngine(inner, _Rewrite()), make_aligner(fn)), QUESTION)
    assert response.response == FIXED
    assert inner.queries == [f"rewritten: {QUESTION}"]
    assert fn.questions == [QUESTION]


async def test_the_llm_of_the_settings_is_not_touched(ask, monkeypatch):
    """A wrapper must not resolve Settings.llm: without the OpenAI package that is an ImportError."""
    monkeypatch.setattr(type(Settings), "llm", property(lambda self: pytest.fail("Settings.llm was resolved")))
    assert (await ask(AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner()), QUESTION)).response


@pytest.mark.parametrize("feedback", ["NO", "be nicer"])
async def test_under_a_retry_engine_the_question_is_the_users_words(ask, feedback, monkeypatch):
    """It asks again with the failed answer after the question, or before it; that is for the LLM."""
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    fn, llm = Recorder(), ScriptedLLM()
    evaluator = Verdicts(False, False, True, feedback=feedback)
    engine = AlignerQueryEngine(make_index().as_query_engine(llm=llm), make_aligner(fn))
    response = await ask(RetryQueryEngine(engine, evaluator), QUESTION)
    assert response.response == FIXED
    assert fn.questions == [QUESTION] * 3
    assert "previous bad answer" in llm.prompts[2] and FIXED in llm.prompts[2]


async def test_under_a_guideline_retry_engine(ask, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    fn, inner = Recorder(), Engine(lambda query: Response(DRAFT))
    judge = GuidelineEvaluator(llm=ScriptedLLM(reply='{"passing": false, "feedback": "be brief"}'))
    engine = RetryGuidelineQueryEngine(AlignerQueryEngine(inner, make_aligner(fn)), judge, max_retries=2)
    assert (await ask(engine, QUESTION)).response == FIXED
    assert len(inner.queries) == 3 and "be brief" in inner.queries[2]
    assert fn.questions == [QUESTION] * 3


async def test_a_custom_engine_under_a_retry_engine(ask):
    """A CustomQueryEngine by itself cannot be retried: it has no _query."""

    class Plain(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            return DRAFT

    with pytest.raises(NotImplementedError):
        await ask(RetryQueryEngine(Plain(), Verdicts(True)), QUESTION)
    engine = RetryQueryEngine(AlignerQueryEngine(Plain(), make_aligner()), Verdicts(True))
    assert (await ask(engine, QUESTION)).response == FIXED


@pytest.mark.parametrize("outside", [False, True])
async def test_hyde(ask, outside):
    """The hypothetical answer is for the embedding; the question stays the user's."""
    fn, llm = Recorder(), ScriptedLLM()
    engine, hyde = make_index().as_query_engine(llm=llm), HyDEQueryTransform(llm=llm)
    if outside:
        engine = AlignerQueryEngine(TransformQueryEngine(engine, hyde), make_aligner(fn))
    else:
        engine = TransformQueryEngine(AlignerQueryEngine(engine, make_aligner(fn)), hyde)
    assert (await ask(engine, QUESTION)).response == FIXED
    assert fn.questions == [QUESTION]


@pytest.mark.parametrize("outside", [False, True])
async def test_sub_questions(ask, outside):
    """Around: the user's words, once. Under: what is asked there is a sub-question, and each answer is corrected."""
    reply = '```json\n{"items":[{"sub_question":"one","tool_name":"t"},{"sub_question":"two","tool_name":"t"}]}\n```'
    fn, llm = Recorder(), ScriptedLLM()
    engine = make_index().as_query_engine(llm=llm)
    if not outside:
        engine = AlignerQueryEngine(engine, make_aligner(fn))
    engine = SubQuestionQueryEngine.from_defaults(
        [QueryEngineTool.from_defaults(engine, name="t", description="d")],
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=ScriptedLLM(reply=reply)),
        response_synthesizer=get_response_synthesizer(llm=llm),
        use_async=False,
        verbose=False,
    )
    if outside:
        engine = AlignerQueryEngine(engine, make_aligner(fn))
    response = await ask(engine, QUESTION)
    assert response.response == (FIXED if outside else DRAFT)
    assert sorted(fn.questions) == ([QUESTION] if outside else ["one", "two"])  # asked side by side
    # Its sources hold the answers to the sub-questions, too.
    answers = [node.text for node in response.source_nodes if node.text.startswith("Sub question: ")]
    assert len(answers) == 2 and all((DRAFT if outside else FIXED) in answer for answer in answers)


@pytest.mark.parametrize("way", ["engine", "synthesizer"])
async def test_condensed_questions(way):
    """The chat engine switches streaming on in LlamaIndex's own engine only; AlignerChatEngine needs no switch."""
    fn, llm, index = Recorder(), ScriptedLLM(), make_index()
    if way == "engine":
        engine = AlignerQueryEngine(index.as_query_engine(llm=llm), make_aligner(fn))
    else:
        synthesizer = AlignerSynthesizer(aligner=make_aligner(fn), llm=llm)
        engine = index.as_query_engine(llm=llm, response_synthesizer=synthesizer)
    chat = CondenseQuestionChatEngine.from_defaults(engine, llm=llm)
    assert chat.chat("hello").response == FIXED and chat.chat_history[-1].content == FIXED
    if way == "engine":
        with pytest.raises(ValueError, match="Streaming is not enabled"):
            chat.stream_chat("again")
        engine = AlignerQueryEngine(index.as_query_engine(llm=llm, streaming=True), make_aligner(fn))
        chat = CondenseQuestionChatEngine.from_defaults(engine, llm=llm)
    assert "".join(chat.stream_chat("again").response_gen) == FIXED
    assert chat.chat_history[-1].content == FIXED
    assert all("Context information" not in question for question in fn.questions)
    chat.reset()
    plain = CondenseQuestionChatEngine.from_defaults(index.as_query_engine(llm=llm), llm=llm)
    assert "".join(AlignerChatEngine(plain, make_aligner(fn)).stream_chat("hello").response_gen) == FIXED
    assert fn.questions[-1] == "hello"


async def test_evaluators_read_what_was_shown():
    llm, judge = ScriptedLLM(), ScriptedLLM(reply="YES")
    engine = AlignerQueryEngine(make_index().as_query_engine(llm=llm), make_aligner())
    response = engine.query(QUESTION)
    for evaluator in (FaithfulnessEvaluator(llm=judge), RelevancyEvaluator(llm=judge)):
        result = evaluator.evaluate_response(query=QUESTION, response=response)
        assert result.passing and result.response == FIXED
        assert FIXED in judge.prompts[-1] and "the sky is blue" in judge.prompts[-1]


@pytest.mark.filterwarnings("ignore:asyncio_module:DeprecationWarning")  # LlamaIndex's runner uses it itself
async def test_a_batch_of_evaluations():
    judge = ScriptedLLM(reply="YES")
    engine = AlignerQueryEngine(make_index().as_query_engine(llm=ScriptedLLM()), make_aligner())
    runner = BatchEvalRunner({"faithful": FaithfulnessEvaluator(llm=judge)})
    results = await runner.aevaluate_queries(engine, ["one", "two"])
    assert [result.response for result in results["faithful"]] == [FIXED, FIXED]
    assert all(result.passing for result in results["faithful"])


# Without LlamaIndex -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["llama_index", "llama_index.core"])
@pytest.mark.parametrize(
    "statement",
    ["import aligner_integrations.llama_index", "from aligner_integrations import AlignerQueryEngine"],
)
def test_without_llama_index(missing, statement):
    program = f"""
import sys
sys.modules[{missing!r}] = None
from aligner_integrations.errors import MissingDependencyError
try:
    {statement}
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install 'aligner-integrations[llama-index]'" in done.stdout


def test_a_broken_llama_index_is_not_called_missing():
    program = """
import sys
sys.modules["llama_index.core.base"] = None
try:
    import aligner_integrations.llama_index
except ModuleNotFoundError as error:
    print(type(error).__name__, error.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    kind, name = done.stdout.split()
    assert kind == "ModuleNotFoundError"
    assert name.startswith("llama_index.core.base")
