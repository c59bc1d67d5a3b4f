"""AlpacaEval 2.0 without a network and without its package: `aligner evaluate alpaca`.

The win rate is the mean of the annotators' preferences. The length-controlled one (Dubois et al., arXiv 2404.04475) is what a
logistic regression on three features would expect if both outputs were of one length:

    tanh(difference of lengths / its standard deviation) + difficulty of the instruction + 1

fitted to the annotations and, with a fifth of the weight, to those of the baseline made verbose and made concise on purpose ("gamed").
Difficulties and gamed rows are files of their own: CSV with `glm_preference` for each instruction in their order, and with the
columns index, instruction_difficulty, preference, std_delta_len and not_gamed_baseline. Neither is part of this package.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_integrations._version import __version__
from aligner_integrations.errors import ConfigurationError, require
from aligner_integrations.evaluation.alpaca_files import Annotation, read_difficulty, read_gamed
from aligner_integrations.evaluation.html import Example, Page, Table
from aligner_integrations.evaluation.html.charts import bars, histogram

if TYPE_CHECKING:
    import numpy as np

_GAMED_WEIGHT = 0.2 / 2  # there are two gamed baselines
_FOLDS = 5
_SEED = 123


@dataclass(frozen=True, slots=True)
class AlpacaFigures:
    """Figures of one model, rates in per cent.

    Attributes:
        win_rate: Mean preference.
        standard_error: Its standard error.
        length_controlled_win_rate: That with lengths taken out; None if a file for it is missing.
        why_not: Why it is None.
        wins: Instructions on which it is preferred.
        losses: On which the baseline is.
        ties: Neither.
        without: Instructions without a preference; in no rate.
        length: Mean characters of its outputs.
        baseline_length: Mean characters of the baseline's.
    """

    win_rate: float
    standard_error: float
    length_controlled_win_rate: float | None
    why_not: str | None
    wins: int
    losses: int
    ties: int
    without: int
    length: float
    baseline_length: float


@dataclass(frozen=True, slots=True)
class AlpacaReport:
    """Figures of one or several models.

    Attributes:
        models: Name of a model -> its figures.
        annotations: Name -> its annotations, for the page; not in `to_dict`.
    """

    models: dict[str, AlpacaFigures]
    annotations: dict[str, list[Annotation]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def versions(self) -> dict[str, str]:
        """What measured."""
        return {"aligner-integrations": __version__}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; those of a single model at the top, too."""
        models = {name: dataclasses.asdict(one) for name, one in self.models.items()}
        alone = next(iter(models.values())) if len(models) == 1 else {}
        return {**alone, "models": models, "versions": self.versions}

    def table(self) -> list[list[str]]:
        """Return the figures as lines of cells: a header, then one line a model."""
        lines = [["", "win rate", "length-controlled", "wins", "losses", "ties", "length", "baseline's length"]]
        for name, one in self.models.items():
            controlled = one.length_controlled_win_rate
            counts = [str(one.wins), str(one.losses), str(one.ties)]
            rates = [
                f"{one.win_rate:.3f}% ± {one.standard_error:.2f}",
                "" if controlled is None else f"{controlled:.3f}%",
            ]
            lines.append([name, *rates, *counts, f"{one.length:.0f}", f"{one.baseline_length:.0f}"])
        return lines

    def page(self) -> Page:
        """Return the report as a page; rows are those of the first model, the clearest losses first."""
        name, annotations = next(iter(self.annotations.items()), ("", []))
        rates = {f"{model}, raw": one.win_rate for model, one in self.models.items()}
        rates |= {
            f"{model}, length-controlled": one.length_controlled_win_rate
            for model, one in self.models.items()
            if one.length_controlled_win_rate is not None
        }
        preferences = {
            model: [100 * one.preference for one in rows if one.preference is not None]
            for model, rows in self.annotations.items()
        }
        told = [one for one in annotations if one.preference is not None]
        return Page(
            title=f"AlpacaEval: {', '.join(self.models)}",
            lead=[
                "Annotated preferences of a model's outputs over the baseline's, and what they would be at equal lengths."
            ],
            tables=[Table("Figures", self.table())],
            charts=[bars("win rates in per cent", rates), histogram("preferences", preferences, unit="per cent")],
            examples=[_example(one) for one in sorted(told, key=lambda one: one.preference or 0.0)],
            examples_title=f"Instructions of {name}: the clearest losses first; what went is the baseline's, what came the model's",
            notes=list(dict.fromkeys(one.why_not for one in self.models.values() if one.why_not)),
        )


def evaluate(
    annotations: Mapping[str, Sequence[Annotation]],
    *,
    difficulty: Path | None = None,
    gamed: Path | None = None,
) -> AlpacaReport:
    """Compute win rates and length-controlled win rates.

    Args:
        annotations: Name of a model -> its annotations, in AlpacaEval's own order of instructions.
        difficulty: The instructions' difficulties.
        gamed: The gamed rows.

    Raises:
        ConfigurationError: There are no annotations, or a file does not fit.
        MissingDependencyError: scikit-learn is not installed.
    """
    if not annotations or not all(annotations.values()):
        raise ConfigurationError("There are no annotations.")
    missing = [name for name, path in (("difficulties", difficulty), ("gamed rows", gamed)) if path is None]
    why_not = None
    if missing:
        why_not = f"The length-controlled win rate needs a file of {' and one of '.join(missing)}."
    hard = None if difficulty is None else read_difficulty(difficulty)
    rows = None if gamed is None else read_gamed(gamed)
    models = {}
    for name, one in annotations.items():
        controlled = None if hard is None or rows is None else length_controlled(one, hard, rows)
        models[name] = _figures(one, controlled, why_not)
    return AlpacaReport(models, {name: list(one) for name, one in annotations.items()})


def length_controlled(
    annotations: Sequence[Annotation], difficulty: Sequence[float], gamed: np.ndarray[Any, Any]
) -> float:
    """Return the length-controlled win rate in per cent.

    Args:
        annotations: All of a model's, in the order of the difficulties.
        difficulty: One for each instruction.
        gamed: Shape (rows, 4): difference of lengths, difficulty, whether it is not gamed, preference.

    Raises:
        ConfigurationError: There are more annotations than difficulties, or their lengths do not differ at all.
    """
    with require("evaluate", "Length-controlled win rates need {missing}", "sklearn", "numpy"):
        import numpy as np
    if len(annotations) > len(difficulty):
        raise ConfigurationError(
            f"There are {len(annotations)} annotations, and difficulties of {len(difficulty)} instructions."
        )
    lengths = np.array([len(one.first) - len(one.second) for one in annotations], dtype=float)
    spread = lengths.std(ddof=1) if len(lengths) > 1 else 0.0
    if not spread > 0:
        raise ConfigurationError(
            "All outputs differ from the baseline's by the same length, so that nothing can be learnt of it."
        )
    hard = np.array(difficulty[: len(annotations)])
    ones = np.ones(len(annotations))
    preference = np.array([math.nan if one.preference is None else one.preference for one in annotations])
    told = ~np.isnan(preference)
    own = np.stack([lengths / spread, hard, ones, preference], axis=1)[told]
    rows = np.concatenate([gamed, own])
    weight = np.where(rows[:, 2] > 0, 1.0, _GAMED_WEIGHT)
    model = _fit(_features(rows[:, :3]), rows[:, 3], weight)
    equal = np.stack([np.zeros(len(annotations)), hard, ones], axis=1)
    return float(100 * model.predict_proba(_features(equal))[:, 1].mean())


def _features(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.stack([np.tanh(rows[:, 0]), rows[:, 1], rows[:, 2]], axis=1)


def _fit(features: np.ndarray[Any, Any], preference: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> Any:
    """Fit the regression to shares: each row stands once as won and once as lost, weighted by how much it is each."""
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    both = np.concatenate([features, features])
    won = np.concatenate([np.ones(len(features)), np.zeros(len(features))])
    share = np.concatenate([preference, 1 - preference])
    weights = np.concatenate([weight, weight])
    groups = np.concatenate([np.arange(len(features))] * 2)

    def loss(y: Any, predicted: Any, row_share: Any, row_weight: Any) -> float:
        target = np.where(y == 1, row_share, 1 - row_share)
        expected = np.clip(predicted, 1e-15, 1 - 1e-15)
        return float(-np.mean(row_weight * (target * np.log(expected) + (1 - target) * np.log(1 - expected))))

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            Cs=10,
            l1_ratios=(1.0,),
            solver="liblinear",
            fit_intercept=False,
            cv=GroupKFold(_FOLDS),
            random_state=_SEED,
            use_legacy_attributes=False,
            scoring=scorer.set_score_request(row_share=True, row_weight=True),
        ).set_fit_request(sample_weight=True)
        return model.fit(both, won, sample_weight=share * weights, groups=groups, row_share=share, row_weight=weights)


def _figures(annotations: Sequence[Annotation], controlled: float | None, why_not: str | None) -> AlpacaFigures:
    told = [one.preference for one in annotations if one.preference is not None]
    if not told:
        raise ConfigurationError("None of the annotations has a preference.")
    mean = sum(told) / len(told)
    variance = sum((one - mean) ** 2 for one in told) / max(1, len(told) - 1)
    return AlpacaFigures(
        win_rate=100 * mean,
        standard_error=100 * math.sqrt(variance / len(told)),
        length_controlled_win_rate=controlled,
        why_not=why_not if controlled is None else None,
        wins=sum(one > 0.5 for one in told),
        losses=sum(one < 0.5 for one in told),
        ties=sum(one == 0.5 for one in told),
        without=len(annotations) - len(told),
        length=sum(len(one.second) for one in annotations) / len(annotations),
        baseline_length=sum(len(one.first) for one in annotations) / len(annotations),
    )


def _example(one: Annotation) -> Example:
    preference = one.preference or 0.0
    outcome = "won" if preference > 0.5 else "lost" if preference < 0.5 else "tied"
    facts = {"preference": f"{100 * preference:.1f}%", "characters": f"{len(one.first)} -> {len(one.second)}"}
    return Example(outcome, one.instruction, one.first, one.second, facts)
