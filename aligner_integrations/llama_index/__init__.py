"""Aligners for LlamaIndex: wrappers around what produces an answer, so that the answer is corrected before it is shown.

    engine = AlignerQueryEngine(index.as_query_engine())

What lives here: the public names, and the check that LlamaIndex is installed. `query_engine.py` wraps query engines;
`response.py` aligns one response and is what every class here ends in.
"""

from __future__ import annotations

from aligner_integrations.errors import MissingDependencyError

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    # Anything else that cannot be imported is a broken installation, and installing the extra would not mend it.
    if error.name not in ("llama_index", "llama_index.core"):
        raise
    raise MissingDependencyError(
        "aligner_integrations.llama_index needs llama-index-core: pip install 'aligner-integrations[llama-index]'"
    ) from error

from aligner_integrations.llama_index.query_engine import AlignerQueryEngine

__all__ = ["AlignerQueryEngine"]
