"""Doing the same with many things at once, where each is a request of its own. Order is kept, and so is the context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aligner_integrations import threads

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(work: Callable[[_Item], _Result], items: Sequence[_Item], most: int) -> list[_Result]:
    """Return `work(item)` for each item, from up to `most` threads; what has not begun when one raises never begins.

    Raises:
        OverloadedError: No thread can be started.
    """
    if len(items) < 2:
        return [work(item) for item in items]
    results: dict[int, _Result] = {}
    turns, guard, over = iter(enumerate(items)), threading.Lock(), threading.Event()

    def take_turns() -> None:
        while not over.is_set():
            with guard:
                turn = next(turns, None)
            if turn is None:
                return
            try:
                results[turn[0]] = work(turn[1])
            except BaseException:
                over.set()  # here, and not by who waits: that one waits for the threads in order, and may be waiting for another
                raise

    try:
        for future in [threads.submit(take_turns) for _ in range(min(len(items), most))]:
            future.result()
    finally:
        over.set()  # after Ctrl-C, too, when nobody waits for what still runs
    return [results[i] for i in range(len(items))]


async def aeach(work: Callable[[_Item], Awaitable[_Result]], items: Sequence[_Item], most: int) -> list[_Result]:
    """Return `await work(item)` for each item, up to `most` at once; if this is cancelled, or one raises, all are."""
    if len(items) < 2:
        return [await work(item) for item in items]
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
