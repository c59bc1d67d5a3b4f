"""Asking a backend for the jobs of one call. What it raises for all of them is each one's error, as in a stream.

What lives elsewhere: what is asked for, and what becomes of it (`job.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from aligner_integrations.backends.base import Backend
from aligner_integrations.backends.request import Completion
from aligner_integrations.backends.score import Score
from aligner_integrations.errors import AlignerError, CorrectionError, InputError
from aligner_integrations.job import Job

# What may go wrong with one correction, and `on_error` answers. A model that cannot be had at all is raised.
ONE_CORRECTION = (CorrectionError, InputError)


def scores(jobs: list[Job], backend: Backend) -> Sequence[Score | AlignerError | None]:
    """What the gate judges by."""
    if not jobs[0].plan.wants_score:
        return [None] * len(jobs)
    try:
        return backend.score([job.request() for job in jobs])
    except ONE_CORRECTION as error:
        return [error] * len(jobs)


async def ascores(jobs: list[Job], backend: Backend) -> Sequence[Score | AlignerError | None]:
    """`scores` without blocking the event loop."""
    if not jobs[0].plan.wants_score:
        return [None] * len(jobs)
    try:
        return await backend.ascore([job.request() for job in jobs])
    except ONE_CORRECTION as error:
        return [error] * len(jobs)


def completions(jobs: list[Job], backend: Backend) -> Sequence[Completion | AlignerError]:
    """What the aligner writes."""
    try:
        return backend.complete([job.request() for job in jobs])
    except ONE_CORRECTION as error:
        return [error] * len(jobs)


async def acompletions(jobs: list[Job], backend: Backend) -> Sequence[Completion | AlignerError]:
    """`completions` without blocking the event loop."""
    try:
        return await backend.acomplete([job.request() for job in jobs])
    except ONE_CORRECTION as error:
        return [error] * len(jobs)
