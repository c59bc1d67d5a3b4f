"""The aligner in LangChain: `prompt | llm | AlignerRunnable()`, `create_agent(..., middleware=[AlignerMiddleware()])`.

What lives here, one thing a file: the step of a chain (`runnable.py`), a chat model and an aligner as one
(`chat_model.py`), agents (`agents/middleware.py`, `agents/thought_middleware.py`), and a node for graphs (`node.py`). What they share:
`tasks.py`, `messages.py`, `chunks.py`, `correction_run.py`, `callbacks.py`, `identity.py`; how the question is found: `question/recorder.py`,
`question/run_tree.py`, `question/matching.py`; what agents' middleware needs beside: `agents/types.py`, `agents/replay.py`, `agents/thoughts.py`. What is corrected
and what is not is decided in `aligner.py`.
"""

from typing import TYPE_CHECKING

from aligner_integrations.errors import require

with require("langchain", "aligner_integrations.langchain needs langchain-core", "langchain_core"):
    import langchain_core  # noqa: F401 - only to say in a sentence that it is missing

from aligner_integrations._lazy import lazy
from aligner_integrations.langchain.chat_model import AlignedChatModel
from aligner_integrations.langchain.node import AlignerNode
from aligner_integrations.langchain.runnable import AlignerRunnable

if TYPE_CHECKING:
    from aligner_integrations.langchain.agents.middleware import AlignerMiddleware
    from aligner_integrations.langchain.agents.thought_middleware import ThoughtAlignerMiddleware

__all__ = ["AlignedChatModel", "AlignerMiddleware", "AlignerNode", "AlignerRunnable", "ThoughtAlignerMiddleware"]

# They need langchain itself, so the import waits until they are used.
__getattr__ = lazy(
    __name__,
    {
        "AlignerMiddleware": "aligner_integrations.langchain.agents.middleware",
        "ThoughtAlignerMiddleware": "aligner_integrations.langchain.agents.thought_middleware",
    },
)
