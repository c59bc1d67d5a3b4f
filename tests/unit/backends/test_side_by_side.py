"""Many requests side by side: in order, in the caller's context, and no more at once than allowed."""

import asyncio
import contextvars
import threading
import time

import pytest

from aligner_integrations.backends.side_by_side import aeach, each

variable = contextvars.ContextVar("variable", default="none")


class Count:
    """How many run, and the most that ever did."""

    def __init__(self):
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error):
        with self.lock:
            self.now -= 1


def test_in_order_and_in_context():
    count = Count()
    variable.set("mine")

    def work(n):
        with count:
            time.sleep(0.01 * (n % 3))
            return n, variable.get()

    assert each(work, list(range(20)), 4) == [(n, "mine") for n in range(20)]
    assert 1 < count.most <= 4
    assert each(lambda n: threading.get_ident(), [1], 4) == [threading.get_ident()]
    assert each(work, [], 4) == []


@pytest.mark.parametrize("raises", [0, 1])  # whichever thread it is
def test_an_error_keeps_the_rest_from_beginning(raises):
    begun, raised = [], threading.Event()

    def work(n):
        begun.append(n)
        if n == raises:
            raised.set()
            raise KeyError(n)
        assert raised.wait(10)
        time.sleep(0.2)

    with pytest.raises(KeyError):
        each(work, list(range(100)), 2)
    assert len(begun) < 10


async def test_tasks_in_order_and_no_more_than_allowed():
    count = Count()

    async def work(n):
        with count:
            await asyncio.sleep(0.01 * (n % 3))
            return n

    assert await aeach(work, list(range(20)), 4) == list(range(20))
    assert 1 < count.most <= 4
    assert await aeach(work, [], 4) == []


async def test_thousands_of_items_are_no_thousands_of_tasks():
    tasks = set()

    async def work(n):
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)
        return n

    assert await aeach(work, range(10_000), 16) == list(range(10_000))
    assert len(tasks) == 16


@pytest.mark.parametrize("how", ["cancelled", "an error"])
async def test_no_task_is_left(how):
    ended = []

    async def work(n):
        try:
            await asyncio.sleep(0.02 if n == 0 else 30)
            raise KeyError(n)
        finally:
            ended.append(n)

    task = asyncio.ensure_future(aeach(work, [0, 1, 2], 8))
    if how == "cancelled":
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError if how == "cancelled" else KeyError):
        await task
    await asyncio.sleep(0)
    assert sorted(ended) == [0, 1, 2] and asyncio.all_tasks() == {asyncio.current_task()}
