"""Aligner (Ji et al., NeurIPS 2024, arXiv 2402.02416): make any LLM's answers better after the fact.

The names below are resolved when first used; importing the package loads nothing but the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligner_integrations._lazy import lazy
from aligner_integrations._version import __version__

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner
    from aligner_integrations.backends.wrappers.cached import Cache
    from aligner_integrations.backends.wrappers.resilient import Resilience
    from aligner_integrations.correction import Correction
    from aligner_integrations.errors import AlignerError
    from aligner_integrations.langchain.agents.middleware import AlignerMiddleware
    from aligner_integrations.langchain.chat_model import AlignedChatModel
    from aligner_integrations.langchain.runnable import AlignerRunnable
    from aligner_integrations.llama_index.query_engine import AlignerQueryEngine
    from aligner_integrations.templates import Template

__all__ = [
    "AlignedChatModel",
    "Aligner",
    "AlignerError",
    "AlignerMiddleware",
    "AlignerQueryEngine",
    "AlignerRunnable",
    "Cache",
    "Correction",
    "Resilience",
    "Template",
    "__version__",
]

__getattr__ = lazy(
    __name__,
    {
        "AlignedChatModel": "aligner_integrations.langchain.chat_model",
        "Aligner": "aligner_integrations.aligner",
        "AlignerError": "aligner_integrations.errors",
        "AlignerMiddleware": "aligner_integrations.langchain.agents.middleware",
        "AlignerQueryEngine": "aligner_integrations.llama_index.query_engine",
        "AlignerRunnable": "aligner_integrations.langchain.runnable",
        "Cache": "aligner_integrations.backends.wrappers.cached",
        "Correction": "aligner_integrations.correction",
        "Resilience": "aligner_integrations.backends.wrappers.resilient",
        "Template": "aligner_integrations.templates",
    },
    agents=("AlignerMiddleware",),
)


def __dir__() -> list[str]:
    """Public names."""
    return __all__
