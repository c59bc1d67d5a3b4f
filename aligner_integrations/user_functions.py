"""Calling a caller's functions (a gate, `accept`, `repair`), which may hang or raise: in time, and off the event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from aligner_integrations import threads
from aligner_integrations.backends.deadline import Deadline
from aligner_integrations.errors import AlignerError, BackendError


def run(what: str, deadline: Deadline, function: Callable[..., Any], *values: Any) -> Any:
    """What a function returns, or the error that stands for what it raised.

    Args:
        what: The option's name, for messages.
        deadline: When it is left to itself.
        function: The caller's.
        *values: What it is called with.
    """
    try:
        return threads.run(lambda: function(*values), deadline.left)
    except Exception as error:  # noqa: BLE001 - whatever a caller's function raises is answered by on_error
        return _raised(what, deadline, error)


async def arun(what: str, deadline: Deadline, function: Callable[..., Any], *values: Any) -> Any:
    """`run` without blocking the event loop; the function may be a coroutine function."""
    try:
        if inspect.iscoroutinefunction(function):
            result = function(*values)
        else:
            result = await threads.arun(lambda: function(*values), deadline.left)
        async with asyncio.timeout(deadline.left):
            return await result if inspect.isawaitable(result) else result
    except Exception as error:  # noqa: BLE001 - as above
        return _raised(what, deadline, error)


def _raised(what: str, deadline: Deadline, error: Exception) -> AlignerError:
    if isinstance(error, AlignerError):
        return error
    late = isinstance(error, TimeoutError) and deadline.passed
    failure = BackendError(
        f"{what} had not returned at the deadline of the correction; it was left to itself."
        if late
        else f"{what} raised {type(error).__name__}: {error}"
    )
    failure.__cause__ = None if late else error
    return failure
