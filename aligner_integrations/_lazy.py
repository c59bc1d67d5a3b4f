"""Public names that are imported when they are first used, so that a package costs nothing until then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

from aligner_integrations.errors import require


def lazy(package: str, homes: Mapping[str, str], agents: Collection[str] = ()) -> Callable[[str], Any]:
    """Return a package's `__getattr__` (PEP 562).

    Args:
        package: The package's `__name__`.
        homes: The module of each name.
        agents: Names that need the extra `agents`, so that it is named even where what is missing is all of LangChain.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        modules = ("langchain", "langchain_core", "langgraph") if name in agents else ()
        with require("agents", f"{name} needs {{missing}}", *modules):
            value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
