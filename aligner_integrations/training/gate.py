"""Training the gate: which answers would the aligner leave alone? One logistic regression over tokens; over answers: `objections.py`.

A token is labelled 1 where every reference correction deletes or replaces it; an answer's score is its largest token's.
The probe itself and its features are in `backends/local/probe.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from aligner_integrations.backends.encoding import encode_completion, encode_prompt
from aligner_integrations.backends.local.loading import Weights
from aligner_integrations.backends.local.probe import GateProbe, answer_features, token_features
from aligner_integrations.backends.local.scoring import Judged, forward_answers
from aligner_integrations.backends.score import RUDE, WHOLE
from aligner_integrations.errors import ConfigurationError
from aligner_integrations.templates import Template
from aligner_integrations.training import objections
from aligner_integrations.training.data import grouped
from aligner_integrations.training.objections import MIXED, FittedObjection
from aligner_integrations.training.regression import regress

__all__ = [
    "KEEP",
    "MIXED",
    "FittedGate",
    "GateExample",
    "areas",
    "fit_gate",
    "forward_examples",
    "marks_of",
    "token_labels",
]

KEEP: Mapping[str, float] = {RUDE: 0.99, "hateful": 0.995, "harmful": 0.995}
"""By what there is to object to: the share of good answers that a gate must let be."""

_BATCH_TOKENS = 2048
# Tokens of long answers nobody objects to are plenty; a share of them is enough to learn from.
_LONG, _LONG_SHARE = 80, 0.3
_DECAY = 3e-4


class GateExample(NamedTuple):
    """An answer with its reference corrections, and what there is to object to.

    Attributes:
        question: The question.
        answer: The answer.
        corrections: Its corrections, if they edit it; the probe on words learns which.
        kind: What there is to object to, `"rude"`, `"hateful"` or `"harmful"` (`objections.py`), or `MIXED`; empty: no more
            than the corrections say.
    """

    question: str
    answer: str
    corrections: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class FittedGate:
    """A probe, its threshold, and how it did on the tuning examples.

    Attributes:
        probe: The probe.
        threshold: Answers that score at most this are kept.
        good_kept: Share of good tuning answers that are kept.
        bad_flagged: Share of tuning answers in need of correction that are not.
        whole: What it objects to in answers as a whole, with thresholds; the probe for it is part of `probe`.
    """

    probe: GateProbe
    threshold: float
    good_kept: float
    bad_flagged: float
    whole: Mapping[str, FittedObjection] = field(default_factory=dict)


def token_labels(tokens: Sequence[int], corrections: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return 1 for each token that every correction deletes or replaces, shape (tokens,)."""
    if not corrections:
        return torch.zeros(len(tokens))
    labels = torch.ones(len(tokens))
    for correction in corrections:
        touched = torch.zeros(len(tokens))
        matcher = difflib.SequenceMatcher(None, list(tokens), list(correction), autojunk=False)
        for tag, start, stop, _, _ in matcher.get_opcodes():
            if tag in ("delete", "replace"):
                touched[start:stop] = 1
        labels = torch.minimum(labels, touched)
    return labels


def fit_gate(
    weights: Weights,
    template: Template,
    train: Sequence[GateExample],
    tune: Sequence[GateExample],
    *,
    layers: Sequence[int],
    keep: Mapping[str, float] = KEEP,
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
    learn_with: Weights | None = None,
) -> FittedGate:
    """Fit a probe at each layer, and return the one that flags most on the tuning split.

    Args:
        weights: The trained aligner.
        template: Its template.
        train: Examples to learn from.
        tune: Other examples, for the threshold and the choice of the layer.
        layers: Candidate layers, as indices into `hidden_states`.
        keep: By what there is to object to: the share of good tuning answers that must be let be.
        seed: Which tokens of long answers are learnt from.
        progress: Called with (examples done, examples in all).
        learn_with: The same aligner in coarser numbers, to read the examples to learn from with; the thresholds never are.

    Raises:
        ConfigurationError: One kind of example is missing.
    """
    for name, examples in (("training", train), ("tuning", tune)):
        if not any(e.corrections for e in examples) or all(e.corrections for e in examples):
            raise ConfigurationError(f"The gate's {name} examples need both good answers and answers with corrections.")
    generator = torch.Generator().manual_seed(seed)
    features: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    labels: list[torch.Tensor] = []
    answers = objections.Read(layers)
    done = 0
    for example, judged in forward_examples(learn_with or weights, template, train, layers):
        answers.add(example.kind, judged[2])
        if example.kind not in WHOLE:  # which of its words to object to, nobody says
            row = _labels(example, weights, template)
            used = torch.ones(len(row), dtype=torch.bool)
            if len(row) >= _LONG:
                used = (torch.rand(len(row), generator=generator) < _LONG_SHARE) | (row > 0)
            labels.append(row[used])
            for layer in layers:
                features[layer].append(_token_features(judged, layer)[used])
        done += 1
        if progress:
            progress(done, len(train) + len(tune))
    probes = {layer: _fit(layer, torch.cat(features.pop(layer)), torch.cat(labels)) for layer in layers}

    tuned = objections.Read(layers)
    scores: dict[int, list[float]] = {layer: [] for layer in layers}
    bad: list[bool] = []
    for example, judged in forward_examples(weights, template, tune, layers):
        tuned.add(example.kind, judged[2])
        if example.kind not in WHOLE:
            bad.append(bool(example.corrections))
            for layer in layers:
                scores[layer].append(float(probes[layer].marks(_token_features(judged, layer)).max()))
        done += 1
        if progress:
            progress(done, len(train) + len(tune))
    fitted = max(
        (_threshold(probes[layer], torch.tensor(scores[layer]), torch.tensor(bad), keep[RUDE]) for layer in layers),
        key=lambda fitted: fitted.bad_flagged,
    )
    probe, whole = objections.fit(answers, tuned, keep)
    return dataclasses.replace(fitted, probe=dataclasses.replace(fitted.probe, answers=probe), whole=whole)


def areas(
    weights: Weights, template: Template, probe: GateProbe, examples: Sequence[GateExample]
) -> dict[str, tuple[float, int, int]]:
    """Return for each kind of objection the area under the curve against good answers, and how many of both there are.

    Args:
        weights: The trained aligner.
        template: Its template.
        probe: Its gate.
        examples: Answers that nothing was learnt from or chosen on.
    """
    scores: dict[str, list[tuple[str, float]]] = {kind: [] for kind in (RUDE, *WHOLE)}
    for example, judged in forward_examples(weights, template, examples, probe.layers):
        scores[RUDE].append((example.kind, float(probe.marks(_token_features(judged, probe.layer)).max())))
        if probe.answers is not None:
            found = probe.answers.logits(answer_features(*judged[2][probe.answers.layer]))
            for kind, logit in found.items():
                scores[kind].append((example.kind, logit))
    result = {}
    for kind, rows in scores.items():
        bad, good = [score for one, score in rows if one == kind], [score for one, score in rows if not one]
        if bad and good:
            result[kind] = objections.area(bad, good), len(bad), len(good)
    return result


def marks_of(weights: Weights, template: Template, probe: GateProbe, examples: Sequence[GateExample]) -> list[float]:
    """Return each answer's score by the probe on words: its largest token's logit, which a threshold is compared with."""
    found = {
        example: float(probe.marks(_token_features(judged, probe.layer)).max())
        for example, judged in forward_examples(weights, template, examples, [probe.layer])
    }
    return [found[example] for example in examples]


def _chunks(examples: Sequence[GateExample], weights: Weights, template: Template) -> list[list[GateExample]]:
    """Batches of like length with at most `_BATCH_TOKENS` padded tokens."""
    lengths = {e: 2 * len(weights.tokenizer(template.render(e.question, e.answer))["input_ids"]) for e in set(examples)}
    order = sorted(examples, key=lambda e: lengths[e])
    random.Random(0).shuffle(order)
    order.sort(key=lambda e: lengths[e])
    return grouped(order, lengths.__getitem__, _BATCH_TOKENS)


def _completion(text: str, weights: Weights, template: Template) -> list[int]:
    return [
        *encode_completion(weights.tokenizer, template.completion_prefix, text.strip()),
        weights.tokenizer.eos_token_id,
    ]


def _labels(example: GateExample, weights: Weights, template: Template) -> torch.Tensor:
    return token_labels(
        _completion(example.answer, weights, template), [_completion(c, weights, template) for c in example.corrections]
    )


def forward_examples(
    weights: Weights, template: Template, examples: Sequence[GateExample], layers: Sequence[int]
) -> Iterator[tuple[GateExample, Judged]]:
    """Run examples through the aligner, those of like length together."""
    for chunk in _chunks(examples, weights, template):
        yield from _forward(chunk, weights, template, layers)


def _forward(
    chunk: Sequence[GateExample], weights: Weights, template: Template, layers: Sequence[int]
) -> list[tuple[GateExample, Judged]]:
    prompts = [encode_prompt(weights.tokenizer, template.render(e.question, e.answer)) for e in chunk]
    answers = [_completion(e.answer, weights, template) for e in chunk]
    with weights.lock:
        rows = forward_answers(weights, prompts, answers, layers=layers)
    return list(zip(chunk, rows, strict=True))


def _token_features(judged: Judged, layer: int) -> torch.Tensor:
    logprobs, gaps, states = judged
    return token_features(*states[layer], gaps, logprobs)


def _fit(layer: int, features: torch.Tensor, labels: torch.Tensor) -> GateProbe:
    """Logistic regression with a small weight decay, by L-BFGS on normalised features."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    weight, bias = regress((features - mean) / scale, labels, decay=_DECAY, most_steps=150)
    return GateProbe(layer, mean, scale, weight, bias)


def _threshold(probe: GateProbe, scores: torch.Tensor, bad: torch.Tensor, keep: float) -> FittedGate:
    good, flagged = scores[~bad], scores[bad]
    threshold = float(torch.quantile(good, keep))
    return FittedGate(
        probe, threshold, float((good <= threshold).float().mean()), float((flagged > threshold).float().mean())
    )
