"""The aligner in LangChain: `prompt | llm | AlignerRunnable()`, `create_agent(..., middleware=[AlignerMiddleware()])`.

What lives here, one thing a file: the step of a chain (`runnable.py`), a chat model and an aligner as one
(`chat_model.py`), agents (`middleware.py`, `thought_middleware.py`), and a node for graphs (`node.py`). What they share:
`tasks.py`, `messages.py`, `chunks.py`, `tracing.py`, `hearing.py`, `identity.py`; how the question is found: `upstream.py`,
`runs.py`, `lookup.py`; what agents' middleware needs beside: `agents.py`, `stand_in.py`, `thoughts.py`. What is corrected
and what is not is decided in `aligner.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import langchain_core  # noqa: F401 - only to say in a sentence that it is missing
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    from aligner_integrations.errors import MissingDependencyError

    raise MissingDependencyError(
        "aligner_integrations.langchain needs langchain-core: pip install 'aligner-integrations[langchain]'"
    ) from error

from aligner_integrations.langchain.chat_model import AlignedChatModel
from aligner_integrations.langchain.node import AlignerNode
from aligner_integrations.langchain.runnable import AlignerRunnable

if TYPE_CHECKING:
    from aligner_integrations.langchain.middleware import AlignerMiddleware
    from aligner_integrations.langchain.thought_middleware import ThoughtAlignerMiddleware

__all__ = ["AlignedChatModel", "AlignerMiddleware", "AlignerNode", "AlignerRunnable", "ThoughtAlignerMiddleware"]

# They need langchain itself, so the import waits until they are used.
_AGENTS = {
    "AlignerMiddleware": "aligner_integrations.langchain.middleware",
    "ThoughtAlignerMiddleware": "aligner_integrations.langchain.thought_middleware",
}


def __getattr__(name: str) -> Any:
    """Import the middleware on first use."""
    if name not in _AGENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_AGENTS[name]), name)
    globals()[name] = value
    return value
