"""A gate that is a file: a threshold with what was promised of it, and, where the aligner brought no gate, what was learnt.

`aligner calibrate` writes it, and `Aligner(gate="gate.json")` takes it. It is plain JSON: numbers and names, nothing that runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_integrations.backends.score import Score
from aligner_integrations.errors import BackendError, ConfigurationError

FEATURES = ("max_gap", "mean", "minimum", "total", "log_tokens", "gaps_above_1", "mean_gap")
"""What a learnt gate looks at: all of it in the answer's `Score`, whoever gives that, a model here or a server."""


def features_of(score: Score) -> list[float]:
    """Return the features of an answer, in the order of `FEATURES`."""
    tokens = max(1, len(score.tokens))
    gaps = [token.gap for token in score.tokens] or [0.0]
    return [
        score.max_gap,
        score.mean,
        score.minimum,
        score.total,
        math.log(tokens),
        sum(gap > 1 for gap in gaps) / tokens,
        sum(gaps) / tokens,
    ]


@dataclass(frozen=True, slots=True)
class LearntGate:
    """A logistic regression on an answer's score: how likely is its correction better? A gate for `Aligner`.

    Attributes:
        threshold: Answers whose value is at most this are kept.
        centre: What is taken from each feature.
        scale: What each is then divided by.
        weights: What each then counts.
        bias: What is added.
    """

    threshold: float
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def value(self, score: Score) -> float:
        """Return what is compared with the threshold: a logit."""
        parts = zip(features_of(score), self.centre, self.scale, self.weights, strict=True)
        return self.bias + sum(weight * (feature - centre) / scale for feature, centre, scale, weight in parts)

    def __call__(self, question: str, answer: str, score: Score | None) -> bool:
        """Return whether an answer is kept.

        Raises:
            BackendError: The backend shows no probabilities, so there is nothing to judge by.
        """
        if score is None:
            raise BackendError("This gate was learnt from scores, and the aligner's backend has none.")
        return self.value(score) <= self.threshold


def read_gate(path: Path) -> float | LearntGate:
    """Read a gate.

    Returns:
        A threshold for the aligner's own score, or a learnt gate.

    Raises:
        ConfigurationError: The file cannot be read, or is no gate.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        threshold = _finite(data["threshold"])
        if (learnt := data.get("learnt")) is None:
            return threshold
        if tuple(learnt["features"]) != FEATURES:
            raise ConfigurationError(f"{path} looks at {learnt['features']}, which this version does not have.")
        centre, scale, weights = (_numbers(learnt[name]) for name in ("centre", "scale", "weights"))
        if not all(scale):
            raise ValueError("a scale is 0")
        return LearntGate(threshold, centre, scale, weights, _finite(learnt["bias"]))
    except OSError as error:
        raise ConfigurationError(
            f"gate is {str(path)!r}, which cannot be read: {error.strerror or error}. Give a file that aligner calibrate wrote, a number, "
            "a function, or False."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"{path} is no gate ({type(error).__name__}: {error}). aligner calibrate writes them."
        ) from error


def write_gate(path: Path, gate: float | LearntGate, promise: Mapping[str, Any]) -> None:
    """Write a gate with what was promised of it."""
    data: dict[str, Any] = {"threshold": gate if isinstance(gate, float) else gate.threshold, "promise": dict(promise)}
    if isinstance(gate, LearntGate):
        parts = {name: list(getattr(gate, name)) for name in ("centre", "scale", "weights")}
        data["learnt"] = {"features": list(FEATURES), **parts, "bias": gate.bias}
    path.write_text(json.dumps(data, indent=2) + "\n", "utf-8")


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != len(FEATURES):
        raise TypeError("a list of numbers has not as many as there are features")
    return tuple(_finite(value) for value in values)
