"""The aligner in LangChain: `prompt | llm | AlignerRunnable()`.

What lives here: `runnable.py` (the step of a chain), `upstream.py` (finds the question an LLM was asked) and
`messages.py` (answers inside LangChain's values). What is corrected and what is not is decided in `aligner.py`.
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

from aligner_integrations.langchain.runnable import AlignerRunnable

__all__ = ["AlignerRunnable"]
