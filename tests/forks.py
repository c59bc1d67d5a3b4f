"""Running a function in a forked child."""

import os
import signal
import sys
import traceback
import warnings

SECONDS = 60
"""After which a child that hangs is killed."""


def forked(work):
    """Return whether `work()` is true in a forked child; a child that hangs or raises is false."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0
