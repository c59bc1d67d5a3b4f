"""What a training says while it runs: its own bar at a terminal, elsewhere a line a loss; what libraries tell each other is kept back."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PrinterCallback, TrainerCallback

from aligner_integrations.backends.local.silence import silent

logger = logging.getLogger(__name__)


def moving_bars() -> bool:
    """Whether a bar of progress can be seen: at a terminal that is none of a notebook's."""
    return sys.stderr is not None and sys.stderr.isatty() and "JPY_PARENT_PID" not in os.environ


def tell_losses(trainer: Any) -> None:
    """Log each loss in one line, where a trainer without a bar would print all that it knows."""
    if not moving_bars():
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Losses())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars of files that are written and rows that are laid out from users; a training's own bar stays."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with silent():
            yield
    finally:
        if shown:
            enable_progress_bars()


class _Losses(TrainerCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if logs is not None and "loss" in logs:
            logger.info("step %d of %d: loss %.3f", state.global_step, state.max_steps, float(logs["loss"]))
