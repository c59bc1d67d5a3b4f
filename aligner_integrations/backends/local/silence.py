"""What other libraries say while weights load (progress bars of milliseconds, advice to their own developers) is kept from users.

Bars and log levels are global in transformers, so they are turned down while anything loads and put back after. What a load
does is told by us, in a sentence (`telling.py`); what goes wrong is an error, not a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging

from aligner_integrations.forking import Lock

_lock = Lock()
_loads = 0
_before: tuple[bool, bool, int] = (False, False, logging.WARNING)


@contextmanager
def silent() -> Iterator[None]:
    """Keep transformers silent, for as long as anybody is within."""
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _loads, _before
    with _lock:
        if _loads == 0:
            _before = logging.is_progress_bar_enabled(), not are_progress_bars_disabled(), logging.get_verbosity()
            logging.disable_progress_bar()  # huggingface_hub's, too
            logging.set_verbosity_error()
        _loads += 1


def _end() -> None:
    global _loads
    with _lock:
        _loads -= 1
        if _loads:
            return
        bars, hub_bars, level = _before
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
