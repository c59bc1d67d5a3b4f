"""A fair semaphore for threads and event loops."""

import asyncio
import threading
import time

import pytest

from aligner_integrations.backends.semaphore import Semaphore


def test_first_come_first_served():
    slots, order = Semaphore(1), []
    slots.acquire()

    def work(i):
        with slots:
            order.append(i)

    threads = []
    for i in range(8):
        threads.append(threading.Thread(target=work, args=(i,)))
        threads[-1].start()
        while slots.waiting <= i:
            time.sleep(0.001)
    slots.release()
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    assert (slots.held, slots.waiting) == (0, 0)


def test_whoever_gives_a_lock_back_does_not_get_it_before_those_who_wait():
    lock, got = Semaphore(1), threading.Event()

    def other():
        with lock:
            got.set()

    lock.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    while not lock.waiting:
        time.sleep(0.001)
    lock.release()
    with lock:
        assert got.is_set()
    thread.join()


async def test_no_slot_in_time():
    slots = Semaphore(1)
    assert slots.acquire(timeout=0.01)
    assert not slots.acquire(timeout=0.01)
    assert not await slots.aacquire(timeout=0.01)
    assert (slots.held, slots.waiting) == (1, 0)
    slots.release()
    assert await slots.aacquire(timeout=0)
    slots.release()


async def test_a_task_is_cancelled_as_its_turn_comes():
    """The slot was given to it, so it must be passed on."""
    slots = Semaphore(1)
    slots.acquire()
    first, second = (asyncio.create_task(slots.aacquire()) for _ in range(2))
    while slots.waiting < 2:
        await asyncio.sleep(0)
    slots.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, 60)
    slots.release()
    assert (slots.held, slots.waiting) == (0, 0)


async def test_many_come_and_go():
    slots, running, most = Semaphore(4), 0, 0
    guard = threading.Lock()

    def step(change):
        nonlocal running, most
        with guard:
            running += change
            most = max(most, running)

    def work():
        for _ in range(50):
            with slots:
                step(1)
                step(-1)

    async def task(i):
        if await slots.aacquire(timeout=0.0001 if i % 3 == 0 else None):
            step(1)
            try:
                await asyncio.sleep(0)
            finally:  # it may be cancelled here, too
                step(-1)
                slots.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    tasks = [asyncio.create_task(task(i)) for i in range(600)]
    await asyncio.sleep(0.005)
    for doomed in tasks[::7]:
        doomed.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert most <= 4
    assert (slots.held, slots.waiting) == (0, 0)


def test_a_loop_that_was_closed_under_those_who_waited_keeps_no_slot():
    slots, loop = Semaphore(1), asyncio.new_event_loop()
    slots.acquire()
    waits = loop.create_task(slots.aacquire())
    waits._log_destroy_pending = False  # nothing ever ends it
    loop.run_until_complete(asyncio.sleep(0))
    assert slots.waiting == 1
    loop.close()
    slots.release()
    assert (slots.held, slots.waiting) == (0, 0)
