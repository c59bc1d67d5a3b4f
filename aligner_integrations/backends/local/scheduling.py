"""Requests of several callers on their way through one local model: what is each one's own, and how they run together.

What lives elsewhere: how callers meet (`batching.py`), what is run (`backend.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from aligner_integrations.backends.deadline import CallerStop, Deadline
from aligner_integrations.backends.local.batching import Batcher
from aligner_integrations.backends.request import Request
from aligner_integrations.errors import AlignerError, BackendError, OverloadedError, first_line

if TYPE_CHECKING:
    from aligner_integrations.backends.local.loading import Weights

_Result = TypeVar("_Result")


class Part:
    """One request of one caller.

    Args:
        weights: The aligner it is for.
        request: The request.
        gone: Set when its caller waits no longer.
    """

    def __init__(self, weights: Weights, request: Request, gone: threading.Event) -> None:
        self.weights = weights
        self.request = request
        self.gone = gone
        self.stop = CallerStop(gone, request.timeouts.deadline)

    def stopped(self) -> BackendError:
        """The error of a request that was given up."""
        if self.stop.late:
            return BackendError("The aligner was not done within the limit of this attempt.", retryable=True)
        return BackendError("The correction was cancelled.")


def together(
    batcher: Batcher[Part, _Result | AlignerError], weights: Weights, requests: Sequence[Request]
) -> list[_Result | AlignerError]:
    """Run a caller's requests with those of others; results in order."""
    gone = threading.Event()
    parts = _longest_first(weights, requests, gone)
    try:
        results = batcher.call(list(parts.values()), Deadline.latest(request.timeouts for request in requests))
    except OverloadedError as error:
        return [error] * len(requests)
    finally:
        gone.set()
    return _in_order(parts, results)


async def atogether(
    batcher: Batcher[Part, _Result | AlignerError], weights: Weights, requests: Sequence[Request]
) -> list[_Result | AlignerError]:
    """`together` without blocking the event loop; cancelling it gives the requests up."""
    gone = threading.Event()
    parts = _longest_first(weights, requests, gone)
    try:
        results = await batcher.acall(list(parts.values()), Deadline.latest(request.timeouts for request in requests))
    except OverloadedError as error:
        return [error] * len(requests)
    finally:
        gone.set()
    return _in_order(parts, results)


def in_groups(
    parts: Sequence[Part],
    groups: Iterable[list[int]],
    failed: dict[int, AlignerError],
    work: Callable[[list[int]], Sequence[_Result | None]],
) -> list[_Result | AlignerError]:
    """Work group by group, under the model's lock; a group that fails is done one by one, so that one error is one request's.

    Args:
        parts: All requests of the batch.
        groups: Their places, by group.
        failed: Errors of those that are in no group.
        work: Takes the places of a group; gives a result for each, None where it was given up.
    """
    results: dict[int, _Result | AlignerError | None] = {**failed}
    todo = list(groups)
    while todo:
        if not (group := [i for i in todo.pop(0) if not parts[i].stop.is_set()]):
            continue
        try:
            with parts[0].weights.lock:
                results.update(zip(group, work(group), strict=True))
        except Exception as error:  # noqa: BLE001 - a model may fail in any way; the other groups still run
            if len(group) > 1:  # one of them may be to blame, or all of them together, for want of memory
                todo[:0] = [[i] for i in group]
            else:
                results[group[0]] = failure(error)
    found = [results.get(i) for i in range(len(parts))]
    return [part.stopped() if result is None else result for part, result in zip(parts, found, strict=True)]


def failure(error: BaseException) -> BackendError:
    """What a model's failure is to the caller."""
    failure = BackendError(f"The model failed while running: {type(error).__name__}: {first_line(error)}")
    failure.__cause__ = error
    return failure


def _longest_first(weights: Weights, requests: Sequence[Request], gone: threading.Event) -> dict[int, Part]:
    """The requests by their places, so that those of a batch are of like lengths."""
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt))
    return {i: Part(weights, requests[i], gone) for i in order}


def _in_order(parts: dict[int, Part], results: Sequence[_Result | AlignerError | None]) -> list[_Result | AlignerError]:
    found = dict(zip(parts, results, strict=True))
    done = [found[i] for i in range(len(parts))]
    return [parts[i].stopped() if result is None else result for i, result in enumerate(done)]


__all__ = ["Part", "atogether", "failure", "in_groups", "together"]
