"""`AlignerQueryEngine` within and around LlamaIndex's own engines, and many questions at once."""

import asyncio
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import Settings
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetryQueryEngine, RouterQueryEngine, TransformQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.llama_index import AlignerQueryEngine
from tests.unit.llama_index.support import (
    DRAFT,
    FIXED,
    TEMPLATE,
    Engine,
    Kept,
    LoopWatch,
    Recorder,
    ScriptedLLM,
    make_aligner,
    make_index,
    make_nodes,
    question_in,
    read,
    response_of,
    work,
)

QUESTION = "Is it?"


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


class _Verdicts(BaseEvaluator):
    """Passes or fails answers in a given order, and keeps the answers it judged."""

    def __init__(self, *verdicts):
        self.verdicts, self.judged = list(verdicts), []

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def evaluate_response(self, query=None, response=None, **kwargs):
        self.judged.append(response.response)
        passing = self.verdicts.pop(0)
        return EvaluationResult(query=query, response=response.response, passing=passing, feedback="no")

    async def aevaluate(self, *args, **kwargs):
        raise NotImplementedError


class _Rewrite(BaseQueryTransform):
    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def _run(self, query_bundle, metadata):
        return QueryBundle(f"rewritten: {query_bundle.query_str}")


@pytest.fixture(params=["sync", "async"])
def ask(request):
    async def call(engine, question):
        return engine.query(question) if request.param == "sync" else await engine.aquery(question)

    return call


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
    fn, evaluator = Recorder(), _Verdicts(False, True)
    inner = Engine(lambda query: response_of(kind, *DRAFT.split(" ")))
    response = await ask(AlignerQueryEngine(RetryQueryEngine(inner, evaluator), make_aligner(fn)), QUESTION)
    assert len(inner.queries) == 2
    assert "previous bad answer" in inner.queries[1]
    assert type(response) is kind
    assert "".join(await read(response)) == FIXED.replace(" ", "")
    assert fn.questions == [QUESTION]  # the user's words, and one correction


async def test_under_a_retry_engine(ask):
    evaluator = _Verdicts(True)
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


# Many at once -----------------------------------------------------------------------------------------------------------


def _for_question(prompt: str) -> str:
    return f"for {question_in(prompt)}"


class _Waiting(FakeBackend):
    """Waits before each correction: its asynchronous members on the loop's clock, the others by keeping their thread busy."""

    def complete(self, requests):
        work(0.2)
        return super().complete(requests)

    async def acomplete(self, requests):
        await asyncio.sleep(random.uniform(0, 0.05))
        return FakeBackend.complete(self, requests)

    def stream(self, request):
        work(0.2)
        return super().stream(request)

    async def astream(self, request):
        for piece in FakeBackend.stream(self, request):
            await asyncio.sleep(random.uniform(0, 0.01))
            yield piece


class _Alike(Engine):
    """Answers all alike, each after a little while."""

    async def _aquery(self, query_bundle):
        await asyncio.sleep(random.uniform(0, 0.1))
        return self._query(query_bundle)


@pytest.mark.parametrize("kind", [Response, AsyncStreamingResponse])
async def test_fifty_questions_at_once(kind):
    aligner = Aligner(backend=_Waiting(_for_question), template=TEMPLATE)
    engine = AlignerQueryEngine(_Alike(lambda query: response_of(kind, DRAFT)), aligner)

    async def one(i: int) -> str:
        response = await engine.aquery(f"question {i}")
        text = "".join(await read(response))
        assert response.metadata["aligner"]["outcome"] == "corrected"
        return text

    with LoopWatch() as watch:
        texts = await asyncio.gather(*(one(i) for i in range(50)))
    assert texts == [f"for question {i}" for i in range(50)]
    assert watch.blocked_ms <= 50


async def test_fifty_questions_at_once_over_a_real_index():
    engine = AlignerQueryEngine(make_index().as_query_engine(llm=ScriptedLLM()), make_aligner(_for_question))
    responses = await asyncio.gather(*(engine.aquery(f"question {i}") for i in range(50)))
    assert [response.response for response in responses] == [f"for question {i}" for i in range(50)]


def test_fifty_questions_from_threads():
    engine = AlignerQueryEngine(Engine(lambda query: Response(DRAFT)), make_aligner(_for_question))
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(engine.query, [f"question {i}" for i in range(50)]))
    assert [response.response for response in responses] == [f"for question {i}" for i in range(50)]


async def test_the_watch_sees_a_blocked_loop():
    """The measure used above can fail."""
    with LoopWatch() as watch:
        await asyncio.sleep(0)  # a callback of its own
        work(0.1)
        await asyncio.sleep(0)
    assert watch.blocked_ms > 50


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
