"""Ctrl-C at a chosen moment, for tests of what an interrupted thread leaves behind."""

import contextlib
import os
import signal
import threading
import time

import pytest

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")


@contextlib.contextmanager
def interrupted(seconds):
    """The block is left by a KeyboardInterrupt after so many seconds; it is an error if it ends before."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def interrupted_when(happened):
    """The block is left by a KeyboardInterrupt once something has happened in it; it is an error if it ends before."""
    over = threading.Event()

    def interrupt(*_):
        raise KeyboardInterrupt

    def watch():
        while not over.is_set():
            if happened():
                os.kill(os.getpid(), signal.SIGALRM)
                return
            time.sleep(0.001)

    before = signal.signal(signal.SIGALRM, interrupt)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        watching.join()
        signal.signal(signal.SIGALRM, before)
