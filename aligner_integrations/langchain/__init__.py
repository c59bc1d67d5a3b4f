"""The aligner in LangChain: `prompt | llm | AlignerRunnable()`, `create_agent(..., middleware=[AlignerMiddleware()])`.

The public classes: the step of a chain (`runnable.py`), a chat model and an aligner as one (`chat_model.py`), a node for
graphs (`node.py`), and middleware for agents (`agents/`). What they share: values and where the answer is in them
(`messages.py`), which part of a message it is and what a blocked one may still show (`answer.py`), an answer on its way with
its question (`tasks.py`), streams (`chunks.py`), the aligner's own run (`correction_run.py`), and who hears of a run
(`callbacks.py`). How the question to an answer is found, and whose words it is, lives in `question/`.

What lives elsewhere: what is corrected and what is not (`aligner.py`, one folder up).
"""

from typing import TYPE_CHECKING

from aligner_integrations.errors import require

with require(
    "langchain",
    "aligner_integrations.langchain needs langchain-core (its middleware: the extra [agents], which brings it along)",
    "langchain_core",
):
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
