"""Ctrl-C at a chosen moment, for tests of what an interrupted thread leaves behind."""

import contextlib
import signal

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
