"""What happens to locks, threads and queues when a process forks: the child has none of the threads, and gets them anew.

A lock that another thread holds at that moment would stay locked in the child for ever, and what waits for a thread that
is gone would wait for ever (gunicorn --preload, Celery, multiprocessing's "fork").
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forks(Protocol):
    """What has locks or threads of its own."""

    def begin_anew(self) -> None:
        """In a forked child: forget threads and who waits, and make new locks. Nothing else runs meanwhile."""


_all: WeakSet[Forks] = WeakSet()


def survives_fork(thing: Forks) -> None:
    """From now on call `begin_anew` in each forked child, as long as the thing lives."""
    _all.add(thing)


def _begin_anew() -> None:
    for thing in list(_all):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):  # where processes can fork
    os.register_at_fork(after_in_child=_begin_anew)
