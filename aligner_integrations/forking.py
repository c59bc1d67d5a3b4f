"""What happens to locks, threads and queues when a process forks: the child has none of the threads, and gets them anew.

A lock that another thread holds at that moment would stay locked in the child for ever, and what waits for a thread that
is gone would wait for ever (gunicorn --preload, Celery, multiprocessing's "fork").
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet


class Forks(Protocol):
    """What has locks or threads of its own."""

    def begin_anew(self) -> None:
        """In a forked child: forget threads and who waits, and make new locks. Nothing else runs meanwhile."""


_all: WeakSet[Forks] = WeakSet()


def survives_fork(thing: Forks) -> None:
    """From now on call `begin_anew` in each forked child, as long as the thing lives."""
    _all.add(thing)


class Lock:
    """A lock that a forked child finds open, whoever held it in the parent.

    Args:
        make: What makes it: `threading.Lock`, or `threading.RLock`.
        forks_wait: Whether a fork waits until nobody holds it: for what a library keeps in this process's memory and cannot
            forget, such as SQLite the locks of a transaction.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock, *, forks_wait: bool = False) -> None:
        self._make = make
        self.begin_anew()
        survives_fork(self)
        if forks_wait:
            _awaited.add(self)

    def begin_anew(self) -> None:
        """In a forked child nobody holds it."""
        self._lock = self._make()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(RuntimeError):  # the process forked while this thread held it, and here is the child
            self._lock.release()


_awaited: WeakSet[Lock] = WeakSet()
_LONGEST = 10.0
"""Seconds that a fork waits for one of them at most: a disk that hangs must not keep a process from forking."""

_held: list[Any] = []


def _wait() -> None:
    _held.extend(lock._lock for lock in list(_awaited) if lock._lock.acquire(timeout=_LONGEST))


def _go_on() -> None:
    while _held:
        _held.pop().release()


def _begin_anew() -> None:
    _held.clear()
    for thing in list(_all):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):  # where processes can fork
    os.register_at_fork(before=_wait, after_in_parent=_go_on, after_in_child=_begin_anew)
