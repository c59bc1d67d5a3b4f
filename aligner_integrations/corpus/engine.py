"""How the rows of a shard are corrected, and by whom: `LocalEngine` in this process; on a cluster: `ray.py`.

Values go in and out that any process can take and give: pairs of texts, and `Done` or `Failed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aligner_integrations.backends.side_by_side import each
from aligner_integrations.correction import Correction
from aligner_integrations.errors import (
    OUTAGE,
    AlignerError,
    CircuitOpenError,
    ConfigurationError,
    OverloadedError,
    first_line,
)

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

BATCH = 32
"""Rows that a backend of this machine corrects together."""

_CALLS = 4
"""Calls at once of a backend on a server. Each is of several rows, which costs less than one a row; together they are twice
the rows that the backend lets through at once, so that the next ones wait at the server's door and none of them for long."""

Pair = tuple[str, str]
Shard = tuple[int, Sequence[Pair]]
"""Its number, and its questions and answers."""


class Done(NamedTuple):
    """What became of a row.

    Attributes:
        text: The text to show from now on.
        outcome: See `Correction`.
        reason: Why, if there is one.
        score: The gate's number for the answer; None without one.
        changed_share: Share of characters that went or came, from 0 to 1.
    """

    text: str
    outcome: str
    reason: str | None
    score: float | None
    changed_share: float


class Failed(NamedTuple):
    """Why there is no correction of a row.

    Attributes:
        reason: The error, in a line.
        outage: Whether the backend failed, and not this row.
        unasked: Whether the backend was not even asked, because it fails or has too much to do.
    """

    reason: str
    outage: bool = False
    unasked: bool = False


Result = Done | Failed


class Engine(Protocol):
    """Corrects shards."""

    def correct(
        self, aligner: Aligner, shards: Iterable[Shard], fields: Mapping[str, str], on_rows: Callable[[int], object]
    ) -> Iterator[tuple[int, list[Result]]]:
        """Yield (number, results) of each shard, in any order.

        Args:
            aligner: What corrects.
            shards: What to correct. Taken one by one, and no more than are being corrected.
            fields: The template's extra fields.
            on_rows: Called with the number of rows that were corrected since.

        Raises:
            AlignerError: Nothing can be corrected at all.
        """


class LocalEngine:
    """Corrects in this process, shard after shard.

    Weights of this machine correct batches of like length. A server is asked side by side, as much at once as its backend says,
    long answers first, so that what is waited for at the end of a shard is short.
    """

    def correct(
        self, aligner: Aligner, shards: Iterable[Shard], fields: Mapping[str, str], on_rows: Callable[[int], object]
    ) -> Iterator[tuple[int, list[Result]]]:
        """Yield (number, results) of each shard, in their order."""
        for number, pairs in shards:
            yield number, correct_shard(aligner, pairs, fields, on_rows)


def correct_shard(
    aligner: Aligner, pairs: Sequence[Pair], fields: Mapping[str, str], on_rows: Callable[[int], object]
) -> list[Result]:
    """Correct the rows of a shard; what a passing outage took is asked for once more at its end.

    The batches follow from the shard alone, and nothing that is kept of earlier texts is gone on from, so that its numbers are the
    same to the last digit whenever and wherever it is corrected.

    Raises:
        AlignerError: Nothing can be corrected at all: no weights, options that do not fit.
    """
    results: list[Result] = [Failed("It was not asked.")] * len(pairs)
    aligner.backend.forget()

    def ask(rows: list[int]) -> None:
        done = aligner.correct_many([pairs[i] for i in rows], return_exceptions=True, **fields)
        for i, result in zip(rows, done, strict=True):
            results[i] = _result(result)

    def work(rows: list[int]) -> None:
        ask(rows)
        on_rows(len(rows))

    _in_groups(work, range(len(pairs)), pairs, aligner.backend.concurrency)
    lost = [i for i, result in enumerate(results) if isinstance(result, Failed) and result.outage]
    if lost and 2 * len(lost) <= len(pairs):
        _in_groups(ask, lost, pairs, aligner.backend.concurrency)
    return results


def _in_groups(
    work: Callable[[list[int]], None], rows: Iterable[int], pairs: Sequence[Pair], at_once: int | None
) -> None:
    """Do something with rows, grouped as the backend likes them."""
    order = sorted(rows, key=lambda i: (len(pairs[i][0]) + len(pairs[i][1]), i), reverse=at_once is not None)
    size = BATCH if at_once is None else max(1, 2 * at_once // _CALLS)
    each(work, [order[i : i + size] for i in range(0, len(order), size)], 1 if at_once is None else _CALLS)


def _result(result: Correction | AlignerError) -> Result:
    if isinstance(result, ConfigurationError):  # a mistake of the caller, which every row would meet
        raise result
    if isinstance(result, AlignerError):
        unasked = isinstance(result, CircuitOpenError | OverloadedError)
        return Failed(f"{type(result).__name__}: {first_line(result)}", isinstance(result, OUTAGE), unasked)
    score = result.score
    score = None if score is None or not math.isfinite(score) else round(score, 3)
    return Done(result.text, result.outcome, result.reason, score, round(result.diff().changed_share, 4))


def is_outage(results: Sequence[Result]) -> Failed | None:
    """Return what failed, if that says more of the backend than of the rows; None if it does not.

    Then the rows are not to blame, and none of them is a dead letter: rows that were not even asked, and more than half of a shard.
    """
    failed = [result for result in results if isinstance(result, Failed) and result.outage]
    unasked = [result for result in failed if result.unasked]
    if unasked or 2 * len(failed) > len(results):
        return (unasked or failed)[0]
    return None
