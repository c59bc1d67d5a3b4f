"""Doing the same with many things at once, where each is a request of its own. Order is kept, and so is the context."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(
    work: Callable[[_Item], _Result], items: Sequence[_Item], most: int, interrupt: Callable[[], None] = lambda: None
) -> list[_Result]:
    """Return `work(item)` for each item, from up to `most` threads; what has not begun when one raises never begins.

    Args:
        work: What to do.
        items: With what.
        most: How many threads.
        interrupt: Called when the user interrupts (Ctrl-C); makes what still runs come to an end.
    """
    if len(items) < 2:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(len(items), most), thread_name_prefix="aligner-remote")
    try:
        # A copy each: a context can be entered by one thread at a time.
        futures = [pool.submit(contextvars.copy_context().run, work, item) for item in items]
        results = [future.result() for future in futures]
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        interrupt()
        raise
    pool.shutdown()
    return results


async def aeach(work: Callable[[_Item], Awaitable[_Result]], items: Sequence[_Item], most: int) -> list[_Result]:
    """Return `await work(item)` for each item, up to `most` at once; if this is cancelled, or one raises, all are."""
    if len(items) < 2:
        return [await work(item) for item in items]
    free = asyncio.Semaphore(most)

    async def run(item: _Item) -> _Result:
        async with free:
            return await work(item)

    tasks = [asyncio.ensure_future(run(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
