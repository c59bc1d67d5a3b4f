"""Thousands of calls that begin at once begin bit by bit, in their order, and the loop has its turns in between."""

import asyncio
import gc
import time
import weakref
from collections import Counter

from aligner_integrations import Aligner, Resilience, turnstile
from aligner_integrations.backends.base import FakeBackend
from tests.unit.support import TEMPLATE, mend

MANY = 10 * turnstile._AT_ONCE


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self):
        self.now, self._loop = 0, asyncio.get_running_loop()
        self._next()

    def _next(self):
        self.now += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self):
        self._handle.cancel()


async def test_only_some_come_in_in_one_turn_and_in_their_order():
    turns, came = Turns(), []

    async def one(i):
        await turnstile.come_in()
        came.append((turns.now, i))

    await asyncio.gather(*(one(i) for i in range(MANY)))
    turns.stop()
    assert [i for _, i in came] == list(range(MANY))
    assert max(Counter(turn for turn, _ in came).values()) == turnstile._AT_ONCE


async def test_whoever_comes_later_waits_behind_those_who_wait():
    came = []

    async def one(i):
        await turnstile.come_in()
        came.append(i)

    first = [asyncio.ensure_future(one(i)) for i in range(MANY)]
    for i in range(MANY, MANY + 20):
        await asyncio.sleep(0)
        first.append(asyncio.ensure_future(one(i)))
    await asyncio.gather(*first)
    assert came == sorted(came)


async def test_whoever_is_cancelled_is_in_nobodys_way():
    came = []

    async def one(i):
        await turnstile.come_in()
        came.append(i)

    tasks = [asyncio.ensure_future(one(i)) for i in range(MANY)]
    await asyncio.sleep(0)
    for i in range(1, MANY, 2):
        tasks[i].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    begun = turnstile._AT_ONCE
    assert came == [*range(begun), *range(begun, MANY, 2)]
    await asyncio.gather(*(one(-1) for _ in range(MANY)))  # and nothing is left over
    assert came.count(-1) == MANY


async def test_one_alone_does_not_wait():
    turns = Turns()
    await turnstile.come_in()
    assert turns.now == 1
    turns.stop()


def test_a_loop_that_is_done_is_not_kept():
    async def some():
        await asyncio.gather(*(turnstile.come_in() for _ in range(MANY)))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(some())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


class Noting(FakeBackend):
    """Notes in which turn of the loop it was asked for what, and the deadlines."""

    def __init__(self, turns):
        super().__init__(mend)
        self.turns, self.asked, self.deadlines = turns, [], set()

    async def acomplete(self, requests):
        self.asked.append(self.turns.now)
        self.deadlines |= {request.timeouts.deadline for request in requests}
        return self.complete(requests)


async def test_corrections_begin_bit_by_bit_and_their_deadlines_count_from_the_call(monkeypatch):
    turns = Turns()
    backend, now = Noting(turns), time.monotonic()
    aligner = Aligner(backend=backend, template=TEMPLATE, resilience=Resilience(deadline=1000, timeout=None))
    await aligner.acorrect("q", "bad")  # what is looked up once is known from now on
    backend.asked.clear()
    backend.deadlines.clear()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tasks = [asyncio.ensure_future(aligner.acorrect("q", f"bad {i}")) for i in range(MANY)]
    await asyncio.sleep(0)
    monkeypatch.setattr(time, "monotonic", lambda: now + 500)  # so long have most of them waited
    done = await asyncio.gather(*tasks)
    turns.stop()
    assert [one.text for one in done] == [f"good {i}" for i in range(MANY)]
    assert max(Counter(backend.asked).values()) <= turnstile._AT_ONCE
    assert backend.deadlines == {now + 1000}
