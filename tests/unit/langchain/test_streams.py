"""Streams hold the upstream back; cancelled, closed and abandoned ones leave nothing."""

import asyncio
import gc
from typing import Any

import pytest

from tests.unit.langchain.support import (
    ALIKE,
    PROMPT,
    Backend,
    Upstream,
    held,
    mark,
    settle,
    step,
    want,
)


def test_nothing_of_the_upstream_leaks_into_a_stream():
    chunks = list((PROMPT | Upstream() | step(lambda prompt: "Something else entirely.")).stream({"q": "x"}))
    assert len(chunks) > 3
    assert not {"do", "not", "know."} & set(" ".join(c.text for c in chunks).split())


def test_closing_a_stream_early_stops_the_aligner():
    runnable = step()
    chain = PROMPT | Upstream() | runnable
    chunks = chain.stream({"q": "x"})
    next(chunks)
    assert (runnable.aligner.backend.opened, runnable.aligner.backend.closed) == (1, 0)
    chunks.close()
    assert runnable.aligner.backend.closed == 1
    direct = runnable.stream({"question": "x", "answer": ALIKE})
    next(direct)
    direct.close()
    assert runnable.aligner.backend.closed == 2


async def test_closing_an_asynchronous_stream_early_stops_the_aligner():
    runnable = step()
    direct = runnable.astream({"question": "x", "answer": ALIKE})
    await anext(direct)
    await direct.aclose()
    assert (runnable.aligner.backend.opened, runnable.aligner.backend.closed) == (1, 1)
    chunks = (PROMPT | Upstream() | runnable).astream({"q": "x"})
    await anext(chunks)
    await chunks.aclose()
    await settle()
    assert (runnable.aligner.backend.opened, runnable.aligner.backend.closed) == (2, 2)


def test_abandoned_streams_leave_nothing():
    chain = PROMPT | Upstream() | step()
    chunks = chain.stream({"q": "x"})
    next(chunks)
    assert held() > 0
    del chunks
    gc.collect()
    assert held() == 0


@pytest.mark.parametrize("way", ["ainvoke", "abatch", "astream"])
@pytest.mark.parametrize("place", ["upstream", "aligner"])
async def test_cancelled_calls_leave_nothing(way, place):
    reached = asyncio.Event()

    class Slow(Backend):
        async def acomplete(self, requests: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)

        async def astream(self, request: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)
            yield ""

    class SlowUpstream(Upstream):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            reached.set()
            await asyncio.sleep(30)
            yield None

    runnable = step()
    runnable.aligner.backend = Slow(mark)
    chain = PROMPT | (SlowUpstream() if place == "upstream" else Upstream()) | runnable

    async def run():
        if way == "ainvoke":
            return await chain.ainvoke({"q": "x"})
        if way == "abatch":
            return await chain.abatch([{"q": "x"}, {"q": "y"}])
        return [chunk async for chunk in chain.astream({"q": "x"})]

    task = asyncio.create_task(run())
    await asyncio.wait_for(reached.wait(), 60)
    assert held() > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await settle()
    assert held() == 0


async def test_the_event_loop_is_not_blocked():
    """No correction is done before all have begun."""
    together = asyncio.Barrier(20)

    class Together(Backend):
        async def acomplete(self, requests: Any) -> Any:
            await together.wait()
            return await super().acomplete(requests)

    runnable = step()
    runnable.aligner.backend = Together(mark)
    chain = PROMPT | Upstream() | runnable
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(chain.ainvoke({"q": str(i)}) for i in range(20)))
    assert [r.text for r in results] == [want(str(i)) for i in range(20)]
