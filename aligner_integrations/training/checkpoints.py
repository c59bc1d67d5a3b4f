"""Checkpoints of a training that may be killed at any moment, also while one is written."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def newest_whole(folder: Path) -> str | None:
    """Return the folder of the newest checkpoint that was written to its end; None if there is none.

    A trainer writes its state last of all, so a checkpoint whose state can be read is whole. One that a kill tore is passed over, and
    is written again when the training gets there.

    Args:
        folder: Where a trainer's checkpoints are.
    """
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    newest = sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(path) for path in newest if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
