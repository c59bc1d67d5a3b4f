"""Aligner (Ji et al., NeurIPS 2024, arXiv 2402.02416): make any LLM's answers better after the fact.

The names below are resolved when first used; importing the package loads nothing but the standard library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner
    from aligner_integrations.correction import Correction
    from aligner_integrations.errors import AlignerError
    from aligner_integrations.langchain.chat_model import AlignedChatModel
    from aligner_integrations.langchain.middleware import AlignerMiddleware
    from aligner_integrations.langchain.runnable import AlignerRunnable
    from aligner_integrations.llama_index.query_engine import AlignerQueryEngine
    from aligner_integrations.templates import Template

__version__ = "0.1.0"

_HOMES = {
    "AlignedChatModel": "aligner_integrations.langchain.chat_model",
    "Aligner": "aligner_integrations.aligner",
    "AlignerError": "aligner_integrations.errors",
    "AlignerMiddleware": "aligner_integrations.langchain.middleware",
    "AlignerQueryEngine": "aligner_integrations.llama_index.query_engine",
    "AlignerRunnable": "aligner_integrations.langchain.runnable",
    "Correction": "aligner_integrations.correction",
    "Template": "aligner_integrations.templates",
}

__all__ = [
    "AlignedChatModel",
    "Aligner",
    "AlignerError",
    "AlignerMiddleware",
    "AlignerQueryEngine",
    "AlignerRunnable",
    "Correction",
    "Template",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return __all__
