"""The aligner in LangChain: `prompt | llm | AlignerRunnable()`.

What lives here: `runnable.py` (the step of a chain) and `chat_model.py` (a chat model and an aligner as one), what they
share (`tasks.py`, `messages.py`, `chunks.py`, `tracing.py`, `identity.py`), and how the question is found
(`upstream.py`, `runs.py`, `lookup.py`). What is corrected and what is not is decided in `aligner.py`.
"""

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
from aligner_integrations.langchain.runnable import AlignerRunnable

__all__ = ["AlignedChatModel", "AlignerRunnable"]
