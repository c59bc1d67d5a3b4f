"""Rows that an upstream learns from: corrections and kept answers of one round, and good answers of other sources.

In DPO a kept or good answer is chosen and rejected at once: the pair's own loss has no gradient there, and the SFT term learns the answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.recording.records import Record
from aligner_integrations.training.bootstrap.questions import GoodAnswer, Question
from aligner_integrations.training.bootstrap.recipe import Arm, BootstrapRecipe
from aligner_integrations.training.preferences.filters import Filtered, Filters

_Texts = tuple[str, str, str]
"""Question, rejected and chosen answer."""


def rows_of_round(
    arm: Arm,
    questions: Sequence[Question],
    answers: Sequence[str],
    records: Sequence[Record],
    good: Sequence[GoodAnswer],
    recipe: BootstrapRecipe,
    *,
    number: int,
    conversational: bool,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rows of one round in training order, and how many are of which kind.

    Raises:
        ConfigurationError: There is nothing to learn from.
    """
    texts, counts = _learnt(arm, questions, answers, records)
    rng = random.Random(f"{recipe.seed}/{number}")
    if good and recipe.good_share:
        some = rng.sample(list(good), min(len(good), round(recipe.good_share * len(texts))))
        texts += [(question, answer, answer) for question, answer in some]
        counts["good"] = len(some)
    if not texts:
        raise ConfigurationError(
            f"Round {number} has nothing to learn from: all its answers are empty or were left out."
        )
    rng.shuffle(texts)
    return [_row(*one, recipe, conversational=conversational) for one in texts], counts


def _learnt(
    arm: Arm, questions: Sequence[Question], answers: Sequence[str], records: Sequence[Record]
) -> tuple[list[_Texts], dict[str, int]]:
    if arm == "own":
        texts = [(q.text, a, a) for q, a in zip(questions, answers, strict=True) if a.strip()]
        return texts, {"own": len(texts)}
    if arm == "human":
        pairs = [(q, a) for q, a in zip(questions, answers, strict=True) if q.reference.strip()]
        texts = [(q.text, a if a.strip() else q.reference, q.reference) for q, a in pairs]
        return texts, {"human": len(texts)}
    found = Filtered()
    # Equal answers to other questions are no duplicates here, and what declines is a correction like any other.
    fit = [r.correction for r in found.take(records, Filters(declined=True, resemblance=1.0))]
    counts = {"corrected": sum(c.changed for c in fit), "kept": sum(not c.changed for c in fit), **found.left_out}
    return [(c.question, c.answer, c.text) for c in fit], counts


def _row(question: str, rejected: str, chosen: str, recipe: BootstrapRecipe, *, conversational: bool) -> dict[str, Any]:
    def said(text: str) -> Any:
        return [{"role": "assistant", "content": text}] if conversational else text

    prompt: Any = [{"role": "user", "content": question}] if conversational else question
    if recipe.objective == "sft":
        return {"prompt": prompt, "completion": said(chosen)}
    return {"prompt": prompt, "chosen": said(chosen), "rejected": said(rejected)}
