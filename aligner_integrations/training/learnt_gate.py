"""A gate for a finished aligner that has none, from what its corrections were worth: `aligner calibrate --learn --folder DIR`.

It reads hidden states, as the gate of a training does (`gate.py`), and learns from verdicts: where the correction is better than the
answer, the words that it changes are objected to; every other answer is let be. What a server shows of an aligner is less, and a gate
from that is in `evaluation/score_gate.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from aligner_integrations.backends.local.loading import load_weights
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.evaluation.calibration import Scored
from aligner_integrations.evaluation.score_gate import FEWEST, halves
from aligner_integrations.models import CONFIG_FILE, AlignerConfig
from aligner_integrations.training.gate import FittedGate, GateExample, fit_gate, marks_of
from aligner_integrations.training.run import layers_for_gates


def learn(
    folder: Path, scored: Sequence[Scored], *, on_progress: Callable[[int, int], None] | None = None
) -> tuple[FittedGate, list[Scored]]:
    """Learn a gate from half of the rows, and give the other half the scores that it decides by.

    Args:
        folder: The aligner's folder; nothing is written to it.
        scored: Answers with their corrections and what those are worth.
        on_progress: Called with (answers read, answers in all).

    Returns:
        The gate, and the rows that it has not seen, to calibrate it on.

    Raises:
        ConfigurationError: There are too few rows of one kind.
    """
    learning, calibrating = halves(scored)
    teaching, tuning = ([_example(one) for one in part] for part in halves(learning))
    for part in (teaching, tuning):
        better = sum(bool(one.corrections) for one in part)
        if min(better, len(part) - better) < FEWEST:
            raise ConfigurationError(
                f"Of a quarter of the rows, {better} corrections are better and {len(part) - better} are not; a gate needs {FEWEST} of "
                "each to learn from, and as many to be chosen on."
            )
    template = AlignerConfig.read(folder / CONFIG_FILE).template
    weights = load_weights(str(folder), None, None, None, None)
    fitted = fit_gate(weights, template, teaching, tuning, layers=layers_for_gates(weights), progress=on_progress)
    scores = marks_of(weights, template, fitted.probe, [GateExample(one.question, one.answer) for one in calibrating])
    return fitted, [dataclasses.replace(one, score=score) for one, score in zip(calibrating, scores, strict=True)]


def _example(one: Scored) -> GateExample:
    changed = one.worth > 0 and one.correction and one.correction != one.answer
    return GateExample(one.question, one.answer, (one.correction,) if changed else ())
