"""What this wing needs that others do without, and the sentence that says so."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from importlib.util import find_spec

from aligner_integrations.errors import require

_LIBRARIES = ("safetensors", "torch", "transformers")


def required() -> AbstractContextManager[None]:
    """Goes around their imports; see `require`."""
    return require(
        "local",
        "Running an aligner on this machine needs torch, transformers and peft ({missing} is missing)",
        *_LIBRARIES,
    )


@functools.cache  # each look-up in a `Cache` comes by here
def look() -> None:
    """Look whether they are installed, before weights are fetched for nothing; imports none of them.

    Raises:
        MissingDependencyError: One is not.
    """
    with required():
        for name in _LIBRARIES:
            if find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
