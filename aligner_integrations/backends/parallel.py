"""Doing the same with many things at once, where each is a request of its own. Order is kept, and so is the context."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(work: Callable[[_Item], _Result], items: Sequence[_Item], most: int) -> list[_Result]:
    """Return `work(item)` for each item, from up to `most` threads; what has not begun when one raises never begins."""
    if len(items) < 2:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(len(items), most), thread_name_prefix="aligner-calls")
    try:
        # A copy each: a context can be entered by one thread at a time.
        futures = [pool.submit(contextvars.copy_context().run, work, item) for item in items]
        return [future.result() for future in futures]
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for what still runs


async def aeach(work: Callable[[_Item], Awaitable[_Result]], items: Sequence[_Item], most: int) -> list[_Result]:
    """Return `await work(item)` for each item, up to `most` at once; if this is cancelled, or one raises, all are."""
    results: dict[int, _Result] = {}
    turns = iter(enumerate(items))

    async def take_turns() -> None:
        for i, item in turns:
            results[i] = await work(item)

    # A task for each of those at once, and not for each item: ten thousand would keep everybody else waiting.
    tasks = [asyncio.ensure_future(take_turns()) for _ in range(min(len(items), most))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [results[i] for i in range(len(items))]
