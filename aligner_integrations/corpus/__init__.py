"""Whole corpora: every row once, in order, whatever dies in between.

    files or a data set -> shards of rows -> an engine corrects them -> shards on disk, a journal -> one file

What lives elsewhere: the correction of a list of answers (`aligner.py`), reading JSON Lines as a whole (`jsonl.py`).
The names below are resolved when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligner_integrations._lazy import lazy

if TYPE_CHECKING:
    from aligner_integrations.corpus.engine import LocalEngine
    from aligner_integrations.corpus.ray import RayEngine
    from aligner_integrations.corpus.records import Columns
    from aligner_integrations.corpus.run import Summary, correct_corpus

__all__ = ["Columns", "LocalEngine", "RayEngine", "Summary", "correct_corpus"]

__getattr__ = lazy(
    __name__,
    {
        "Columns": "aligner_integrations.corpus.records",
        "LocalEngine": "aligner_integrations.corpus.engine",
        "RayEngine": "aligner_integrations.corpus.ray",
        "Summary": "aligner_integrations.corpus.run",
        "correct_corpus": "aligner_integrations.corpus.run",
    },
)


def __dir__() -> list[str]:
    """Public names."""
    return __all__
