"""Learning a gate for an aligner that brought none, from what its `Score` of an answer says: here, or on a server.

A logistic regression: is the correction of this answer better than the answer? It looks at how likely the aligner is to repeat the
answer, and by how much it prefers other words (`gate_file.FEATURES`). One half of the questions teaches it; the promise comes from the
other half (`calibration.py`). A gate that reads hidden states: `training/learnt_gate.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aligner_integrations.backends.request import Request
from aligner_integrations.backends.score import Score
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.evaluation.calibration import Scored
from aligner_integrations.evaluation.corrected import SCORED_AT_ONCE
from aligner_integrations.gate_file import LearntGate, features_of

if TYPE_CHECKING:
    from aligner_integrations.aligner import Aligner

FEWEST = 20
"""Corrections that are better, and others, that a gate can be learnt from."""

_SEED = 42

Judged = tuple[Scored, Score]


def scores_of(
    aligner: Aligner, scored: Sequence[Scored], *, on_progress: Callable[[int], None] | None = None
) -> list[Judged]:
    """Let an aligner judge answers.

    Raises:
        ConfigurationError: It has no probabilities.
        AlignerError: An answer cannot be judged.
    """
    if not aligner.backend.can_score:
        raise ConfigurationError(
            f"A gate is learnt from the aligner's probabilities, which {type(aligner.backend).__name__} has not."
        )
    template, backend = aligner.template, aligner.wrapped_backend
    found: list[Judged] = []
    for start in range(0, len(scored), SCORED_AT_ONCE):
        part = scored[start : start + SCORED_AT_ONCE]
        requests = [
            Request(one.question, one.answer, template.render(one.question, one.answer), template.completion_prefix)
            for one in part
        ]
        for one, score in zip(part, backend.score(requests), strict=True):
            if not isinstance(score, Score):
                raise score
            found.append((one, score))
        if on_progress is not None:
            on_progress(len(found))
    return found


def halves(scored: Sequence[Scored]) -> tuple[list[Scored], list[Scored]]:
    """Split rows so that all of a question and answer are on one side: to learn from, and to calibrate on."""
    texts = sorted({(one.question, one.answer) for one in scored})
    random.Random(_SEED).shuffle(texts)
    first = set(texts[: len(texts) // 2])
    return (
        [one for one in scored if (one.question, one.answer) in first],
        [one for one in scored if (one.question, one.answer) not in first],
    )


def fit(judged: Sequence[Judged]) -> LearntGate:
    """Learn which answers are better for a correction.

    Returns:
        The gate; its threshold is 0, at which a correction is as likely better as not, until it is calibrated.

    Raises:
        ConfigurationError: There are too few rows of one kind.
        MissingDependencyError: scikit-learn is not installed.
    """
    with require("evaluate", "Learning a gate needs {missing}", "sklearn", "numpy"):
        import numpy as np
        from sklearn.linear_model import LogisticRegression
    better = np.array([one.worth > 0 for one, _ in judged])
    if min(int(better.sum()), int((~better).sum())) < FEWEST:
        raise ConfigurationError(
            f"Of the half to learn from, {int(better.sum())} corrections are better and {int((~better).sum())} are not; a gate needs "
            f"{FEWEST} of each."
        )
    features = np.array([features_of(score) for _, score in judged])
    centre, scale = features.mean(0), features.std(0)
    scale[scale < 1e-9] = 1.0  # what is the same everywhere says nothing, and its rounding errors even less
    model = LogisticRegression(C=1.0, max_iter=1000).fit((features - centre) / scale, better)
    return LearntGate(
        0.0,
        tuple(map(float, centre)),
        tuple(map(float, scale)),
        tuple(map(float, model.coef_[0])),
        float(model.intercept_[0]),
    )
