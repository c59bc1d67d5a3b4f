"""Ways to run an aligner, in four wings around one seam (`base.py`).

An aligner runs here (`local/`) or on a server (`remote/`), or a chat model is told to be one (`prompted/`); what is put
around any of them is in `wrappers/`. The wings know nothing of frameworks and policy.

The names below are resolved when first used: each wing needs libraries that the others do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligner_integrations._lazy import lazy

if TYPE_CHECKING:
    from aligner_integrations.backends.base import Backend, FakeBackend
    from aligner_integrations.backends.local.backend import LocalBackend
    from aligner_integrations.backends.prompted.backend import ChatModelBackend
    from aligner_integrations.backends.remote.completions import CompletionsBackend
    from aligner_integrations.backends.remote.tgi import TextGenerationBackend
    from aligner_integrations.backends.wrappers.breaker import Breaker
    from aligner_integrations.backends.wrappers.budget import Budget

__all__ = [
    "Backend",
    "Breaker",
    "Budget",
    "ChatModelBackend",
    "CompletionsBackend",
    "FakeBackend",
    "LocalBackend",
    "TextGenerationBackend",
]

__getattr__ = lazy(
    __name__,
    {
        "Backend": "aligner_integrations.backends.base",
        "Breaker": "aligner_integrations.backends.wrappers.breaker",
        "Budget": "aligner_integrations.backends.wrappers.budget",
        "ChatModelBackend": "aligner_integrations.backends.prompted.backend",
        "CompletionsBackend": "aligner_integrations.backends.remote.completions",
        "FakeBackend": "aligner_integrations.backends.base",
        "LocalBackend": "aligner_integrations.backends.local.backend",
        "TextGenerationBackend": "aligner_integrations.backends.remote.tgi",
    },
)


def __dir__() -> list[str]:
    """Public names."""
    return __all__
