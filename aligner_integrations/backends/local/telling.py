"""What people who wait are told: one sentence before something that takes a while, and on a terminal a bar until it is done."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def telling(sentence: str) -> Iterator[None]:
    """Tell what is done within: whoever reads the log, and the person at a terminal or a notebook, if there is one.

    Args:
        sentence: What is done, how long that takes, and where it leaves something.
    """
    logger.info("%s", sentence)
    notebook = _in_notebook()  # which calls itself a terminal, too
    terminal = sys.stderr is not None and sys.stderr.isatty() and not notebook
    if terminal or notebook:
        sys.stderr.write(f"aligner-integrations: {sentence}\n")
        sys.stderr.flush()
    if not terminal:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeElapsedColumn

    with Progress(
        BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True, refresh_per_second=4
    ) as bar:
        bar.add_task("", total=None)
        yield


def _in_notebook() -> bool:
    """In a kernel, or in a command that one started: `!aligner ...`."""
    return type(sys.stderr).__module__.startswith("ipykernel") or "JPY_PARENT_PID" in os.environ
