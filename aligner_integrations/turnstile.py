"""Letting work into an event loop bit by bit, so that thousands of calls which begin at once do not make it stand still.

What a call does before it first waits for something takes a fraction of a millisecond. Where two thousand begin in one turn of the
loop, nothing else has its turn for as long as all of them take. So only some begin in each turn, in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

_AT_ONCE = 32
"""How many calls begin in one turn of an event loop."""


async def come_in() -> None:
    """Go on in this turn of the event loop, or in a later one if many have come in before. Cancelling it is leaving the queue."""
    loop = asyncio.get_running_loop()
    if (turnstile := _turnstiles.get(loop)) is None:
        turnstile = _turnstiles[loop] = _Turnstile()
    if (turn := turnstile.turn(loop)) is not None:
        await turn


class _Turnstile:
    """Who waits to come in, on one loop. It holds its loop only while somebody does, or it would keep it alive."""

    __slots__ = ("_free", "_waiting")

    def __init__(self) -> None:
        self._free = _AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()

    def turn(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """Return what to wait for; None: come in."""
        if self._free == _AT_ONCE:  # the first one in this turn
            loop.call_soon(self._open, loop)
        if self._free:
            self._free -= 1
            return None
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        return turn

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the next turn: let in those who came first, who go on in the one after it."""
        let_in = 0
        while self._waiting and let_in < _AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                turn.set_result(None)
                let_in += 1
        if let_in:
            self._free = 0  # or who comes now would go on before them
            loop.call_soon(self._open, loop)
        else:
            self._free = _AT_ONCE


_turnstiles: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turnstile] = WeakKeyDictionary()
