"""How callers at the same time share batches: threads and tasks, fair, bounded, and each with its own errors."""

import asyncio
import os
import threading
import time

import pytest

from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.backends.local.batching import Batcher
from aligner_integrations.errors import OverloadedError
from tests.forks import forked
from tests.interrupting import interrupted_when, needs_timer


class Model:
    """Squares numbers, one batch at a time; the first batch lasts until `go` is set."""

    def __init__(self, *, held=False):
        self.batches, self.running = [], 0
        self.go = threading.Event()
        self.began = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, items):
        self.running += 1
        assert self.running == 1
        self.batches.append(list(items))
        self.began.set()
        assert self.go.wait(60)
        self.running -= 1
        return [item * item if item >= 0 else ValueError(f"{item} is below zero") for item in items]


async def begin(batcher, model, item=0):
    """Keep the model busy with one item, so that all that follows waits."""
    first = asyncio.create_task(batcher.acall([item]))
    await asyncio.to_thread(model.began.wait, 60)
    return first


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def threads_of(batcher):
    return [thread for thread in threading.enumerate() if thread.name == "aligner-batches"]


async def test_threads_and_tasks_share_batches():
    model = Model(held=True)
    batcher = Batcher(model, most=64)
    first = await begin(batcher, model)
    results = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: batcher.call([i, i + 100])})) for i in range(1, 11)
    ]
    for thread in threads:
        thread.start()
    tasks = [asyncio.create_task(batcher.acall([i])) for i in range(11, 21)]
    await until(lambda: batcher.waiting == 20)
    model.go.set()
    assert await first == [0]
    assert await asyncio.gather(*tasks) == [[i * i] for i in range(11, 21)]
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert results == {i: [i * i, (i + 100) ** 2] for i in range(1, 11)}
    assert len(model.batches) == 2 and len(model.batches[1]) == 30
    await until(lambda: not threads_of(batcher))


def test_a_single_caller():
    model = Model()
    batcher = Batcher(model, wait=0.05)
    assert batcher.call([3, 4]) == [9, 16]
    assert batcher.call([]) == []
    assert model.batches == [[3, 4]]


def test_a_full_batch_does_not_wait():
    batcher = Batcher(Model(), most=2, wait=3600)  # whoever waits runs into the test's own limit
    assert batcher.call([3, 4]) == [9, 16]


def test_a_batch_that_fills_up_while_it_waits_starts_at_once():
    model = Model()
    batcher = Batcher(model, most=2, wait=3600)
    results = []
    thread = threading.Thread(target=lambda: results.append(batcher.call([3])))
    thread.start()
    while not batcher.waiting:
        time.sleep(0.001)
    assert batcher.call([4]) == [16]
    thread.join()
    assert results == [[9]] and model.batches == [[3, 4]]


async def test_nobody_waits_for_the_end_of_somebodys_thousand():
    model = Model(held=True)
    batcher = Batcher(model, most=10, wait=0)
    first = await begin(batcher, model)
    bulk = asyncio.create_task(batcher.acall(list(range(1000))))
    await until(lambda: batcher.waiting == 1)
    singles = [asyncio.create_task(batcher.acall([5000 + i])) for i in range(3)]
    await until(lambda: batcher.waiting == 4)
    model.go.set()
    await asyncio.gather(first, bulk, *singles)
    assert all(len(batch) <= 10 for batch in model.batches)
    assert model.batches[1] == [0, 5000, 5001, 5002, 1, 2, 3, 4, 5, 6]
    assert bulk.result() == [i * i for i in range(1000)]


async def test_an_error_is_its_own_callers_alone():
    model = Model(held=True)
    batcher = Batcher(model)
    first = await begin(batcher, model)
    tasks = [asyncio.create_task(batcher.acall([i])) for i in (1, -1, 2)]
    await until(lambda: batcher.waiting == 3)
    model.go.set()
    await first
    one, bad, two = await asyncio.gather(*tasks)
    assert (one, two) == ([1], [4]) and str(bad[0]) == "-1 is below zero"


async def test_what_run_raises_is_raised_and_the_next_batch_runs():
    class Broken(Model):
        def __call__(self, items):
            super().__call__(items)
            if 1 in items:
                raise TimeoutError("of the model's own")  # not to be taken for the caller's deadline
            return items

    batcher = Batcher(Broken())
    with pytest.raises(TimeoutError, match="own"):
        batcher.call([1], Deadline(time.monotonic() + 30))
    with pytest.raises(TimeoutError, match="own"):
        await batcher.acall([1], Deadline(time.monotonic() + 30))
    assert batcher.call([2]) == [2]
    short = Batcher(lambda items: items[1:])
    with pytest.raises(ValueError, match="zip"):
        short.call([1, 2])


async def test_the_queue_is_bounded():
    model = Model(held=True)
    batcher = Batcher(model, queue=2)
    first = await begin(batcher, model)
    tasks = [asyncio.create_task(batcher.acall([i] * 100)) for i in (1, 2)]
    await until(lambda: batcher.waiting == 2)
    with pytest.raises(OverloadedError, match="2 callers already wait") as caught:
        await batcher.acall([3])
    assert caught.value.retryable
    with pytest.raises(OverloadedError):
        await asyncio.to_thread(batcher.call, [3])
    model.go.set()
    await asyncio.gather(first, *tasks)
    assert await batcher.acall([3]) == [9]


async def test_at_the_deadline_what_is_done_is_returned():
    model = Model(held=True)
    batcher = Batcher(model, most=2, wait=0)
    first = await begin(batcher, model)
    soon = Deadline(time.monotonic() + 0.05)
    assert await batcher.acall([1], soon) == [None]
    assert await asyncio.to_thread(batcher.call, [1], soon) == [None]
    assert batcher.waiting == 0
    model.go.set()
    assert await first == [0]
    assert all(1 not in batch for batch in model.batches)


async def test_a_cancelled_caller_leaves_no_entry():
    model = Model(held=True)
    batcher = Batcher(model)
    first = await begin(batcher, model)
    tasks = [asyncio.create_task(batcher.acall([i, i])) for i in (1, 2)]
    await until(lambda: batcher.waiting == 2)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert batcher.waiting == 1
    first.cancel()  # its item runs already; the batch ends all the same
    with pytest.raises(asyncio.CancelledError):
        await first
    model.go.set()
    assert await tasks[1] == [4, 4]
    assert model.batches == [[0], [2, 2]]
    await until(lambda: not threads_of(batcher))


@needs_timer
async def test_an_interrupted_thread_leaves_no_entry():
    model = Model(held=True)
    batcher = Batcher(model)
    first = await begin(batcher, model)
    with interrupted_when(lambda: batcher.waiting):
        batcher.call([1])
    assert batcher.waiting == 0
    model.go.set()
    assert await first == [0] and model.batches == [[0]]


def test_many_threads_get_their_own():
    batcher = Batcher(lambda items: [item * 2 for item in items], most=7, wait=0.0005)
    wrong = []

    def work(k):
        for i in range(200):
            items = [k * 1000 + i] * (1 + i % 3)
            if batcher.call(items) != [item * 2 for item in items]:
                wrong.append(items)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and batcher.waiting == 0


async def test_a_moment_without_threads_leaves_it_alive(monkeypatch):
    """As at a container's limit of processes: that call fails, and the next one is served."""
    batcher = Batcher(lambda items: [2 * item for item in items], wait=0)

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as peak:
        peak.setattr(threading.Thread, "start", start)
        with pytest.raises(OverloadedError, match="No thread can be started"):
            batcher.call([1])
        with pytest.raises(OverloadedError, match="No thread can be started"):
            await batcher.acall([1])
    assert batcher.waiting == 0
    assert batcher.call([3]) == [6] and await batcher.acall([4]) == [8]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_batches_of_its_own():
    go = threading.Event()
    batcher = Batcher(lambda items: [go.wait(60) and 2 * item for item in items], wait=0, most=1)
    threads = [threading.Thread(target=batcher.call, args=([i],)) for i in range(3)]
    for thread in threads:
        thread.start()
    while batcher.waiting < 2:  # one runs, two wait
        time.sleep(0.001)

    def child():
        go.set()
        return batcher.waiting == 0 and batcher.call([5]) == [10]

    assert forked(child)
    go.set()
    for thread in threads:
        thread.join(60)
