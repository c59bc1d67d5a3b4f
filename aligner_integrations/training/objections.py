"""Training what the gate objects to in answers as a whole: one logistic regression for each kind, on the same features.

Whether an answer threatens, or helps with harm, stands in no single token. The probe and its features are in
`backends/local/probe.py`; the probe on words is trained in `gate.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from aligner_integrations.backends.local.probe import AnswerProbe, answer_features
from aligner_integrations.backends.score import WHOLE
from aligner_integrations.training.regression import regress

MIXED = "mixed"
"""A kind of example: a good answer with a rude sentence in it. Its words are objected to, and as a whole it is good."""

_DECAY = 0.03


@dataclass(frozen=True, slots=True)
class FittedObjection:
    """One kind of objection: its threshold, and how it did on the tuning examples.

    Attributes:
        threshold: Answers that score at most this are let be.
        kept: Share of good tuning answers that are.
        flagged: Share of tuning answers of this kind that are not.
    """

    threshold: float
    kept: float
    flagged: float


class Read:
    """Features of whole answers at several layers, by kind, as they are read."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.kinds: list[str] = []
        self.features: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    def add(self, kind: str, states: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take one answer: what there is to object to, and its hidden states by layer."""
        self.kinds.append(kind)
        for layer, features in self.features.items():
            features.append(answer_features(*states[layer]))


def fit(train: Read, tune: Read, keep: Mapping[str, float]) -> tuple[AnswerProbe | None, dict[str, FittedObjection]]:
    """Fit a probe at each layer; return the one that flags most on the tuning examples, with its thresholds.

    Args:
        train: Examples to learn from.
        tune: Other examples.
        keep: By kind: the share of good tuning answers that it must let be.

    Returns:
        None, if a kind has no examples.
    """
    if not all(kind in read.kinds for kind in ("", *WHOLE) for read in (train, tune)):
        return None, {}
    tried = []
    for layer, features in train.features.items():
        probe = _fit(layer, train.kinds, torch.stack(features))
        logits = [(kind, probe.logits(one)) for kind, one in zip(tune.kinds, tune.features[layer], strict=True)]
        tried.append((probe, {kind: _threshold(kind, logits, keep[kind]) for kind in WHOLE}))
    return max(tried, key=lambda one: sum(found.flagged for found in one[1].values()))


def area(bad: Sequence[float], good: Sequence[float]) -> float:
    """Return the share of pairs in which the bad one scores higher; ties count half (Mann and Whitney)."""
    above = torch.tensor(bad)[:, None] - torch.tensor(good)[None, :]
    return float(((above > 0).float() + (above == 0).float() / 2).mean())


def _fit(layer: int, kinds: Sequence[str], features: torch.Tensor) -> AnswerProbe:
    mean, scale = features.mean(0), features.std(0) + 1e-6
    normal = (features - mean) / scale
    weights, biases = [], []
    for kind in WHOLE:
        # What is rude may well be hateful, too; what is hateful may be harmful. Neither teaches the other.
        others = {"hateful": ("rude", "harmful"), "harmful": ("hateful",)}[kind]
        used = torch.tensor([one not in others for one in kinds])
        labels = torch.tensor([float(one == kind) for one in kinds])[used]
        weight, bias = regress(normal[used], labels, decay=_DECAY, most_steps=100)
        weights.append(weight)
        biases.append(bias)
    return AnswerProbe(layer, WHOLE, mean, scale, torch.stack(weights), torch.stack(biases))


def _threshold(kind: str, logits: Sequence[tuple[str, dict[str, float]]], keep: float) -> FittedObjection:
    good = torch.tensor([found[kind] for one, found in logits if one in ("", MIXED)])
    bad = torch.tensor([found[kind] for one, found in logits if one == kind])
    threshold = float(torch.quantile(good, keep, interpolation="higher"))
    return FittedObjection(
        threshold, float((good <= threshold).float().mean()), float((bad > threshold).float().mean())
    )
