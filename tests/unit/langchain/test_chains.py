"""The question is found in every shape of chain, however many run at once, with an upstream that answers all alike."""

import asyncio

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

from aligner_integrations import AlignerRunnable
from tests.unit.langchain.shapes import MORE, NAMED, SHAPES, WAYS, gather, stream, told, wanted
from tests.unit.langchain.support import PROMPT, Upstream, aligner, on_threads, step, want

MANY = [f"question {i}" for i in range(100)]


def check(shape, way, questions):
    results = way(SHAPES[shape](Upstream(delay=0.002)), questions)
    assert [told(result) for result in results] == [wanted(shape, q) for q in questions], shape


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("shape", NAMED)
def test_finds_the_question(shape, way):
    check(shape, way, MANY[:5])


@pytest.mark.parametrize("way", [gather, stream], ids=lambda way: way.__name__)
@pytest.mark.parametrize("shape", MORE)
def test_finds_the_question_in_further_shapes(shape, way):
    check(shape, way, MANY[:5])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_finds_the_question_in_all_shapes_for_hundred_callers(way):
    for shape in SHAPES:
        check(shape, way, MANY)


def test_mixed_load_of_threads_and_tasks():
    from_text = PROMPT | Upstream(delay=0.002) | StrOutputParser() | step()
    inside = RunnableLambda(lambda d: Upstream(delay=0.002).invoke("in " + d["q"]).text) | step()

    def loop(k):
        async def run():
            chains = (from_text, inside)
            return await asyncio.gather(*(chains[i % 2].ainvoke({"q": f"{k} {i}"}) for i in range(40)))

        return asyncio.run(run())

    wanted_of = [[want(f"{'in ' * (i % 2)}{k} {i}") for i in range(40)] for k in range(3)]
    assert on_threads(loop, range(3)) == wanted_of


def test_batch_of_a_chain_is_one_batch_of_the_aligner():
    one = aligner()
    chain = PROMPT | Upstream() | AlignerRunnable(one)
    chain.batch([{"q": q} for q in MANY])
    asyncio.run(chain.abatch([{"q": q} for q in MANY[:7]]))
    assert one.backend.batches == [100, 7]
