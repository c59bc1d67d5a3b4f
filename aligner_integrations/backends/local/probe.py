"""The gate's probes: linear classifiers on the aligner's own hidden states. One decides on each token, one on the whole answer.

The paper saw that whether an aligner will copy or correct can be read from its early layers (appendix B.6). The probe
reads, for each token of an answer, the hidden state that predicts it and the one that has read it, with the token's gap
and loss, and the state before the answer's first token, which has read question and answer: whether a swear word is said or spoken
about is a matter of the whole. An answer's score is its largest token's. What an answer intends no single token shows: a second probe
reads that first state, the mean over its tokens, and the state after the last one.
Training them: `training/gate.py`, `training/objections.py`; where the states come from: `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aligner_integrations.errors import ModelLoadError

_NAMES = ("mean", "scale", "weight", "bias")
_OF_ANSWERS = "answer."
# Parts of an answer's features, each as wide as a hidden state.
_PARTS = 3


@dataclass(frozen=True, slots=True)
class AnswerProbe:
    """A trained probe on whole answers: one logit for each kind of objection.

    Attributes:
        layer: Index into `hidden_states`.
        kinds: What it can object to.
        mean: Mean of each feature, shape (3 * hidden,).
        scale: Standard deviation of each feature, same shape.
        weight: Weights on the normalised features, shape (kinds, 3 * hidden).
        bias: Shape (kinds,).
    """

    layer: int
    kinds: tuple[str, ...]
    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> dict[str, float]:
        """Return kind -> logit; features have shape (3 * hidden,)."""
        found = self.weight @ ((features.float() - self.mean) / self.scale) + self.bias
        return dict(zip(self.kinds, found.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class GateProbe:
    """A trained probe.

    Attributes:
        layer: Index into `hidden_states` (0 is the embedding).
        mean: Mean of each feature, shape (3 * hidden + 2,), or (2 * hidden + 2,) for one that does not read the first state.
        scale: Standard deviation of each feature, same shape.
        weight: Weights on the normalised features, same shape.
        bias: Shape ().
        answers: The probe on whole answers, if there is one.
    """

    layer: int
    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    answers: AnswerProbe | None = None

    @property
    def layers(self) -> list[int]:
        """The layers whose hidden states are read."""
        return sorted({self.layer, *([] if self.answers is None else [self.answers.layer])})

    def marks(self, features: torch.Tensor) -> torch.Tensor:
        """Return one logit a token; features have shape (tokens, 3 * hidden + 2)."""
        return ((features[:, : len(self.mean)].float() - self.mean) / self.scale) @ self.weight + self.bias

    def save(self, path: Path) -> None:
        """Write the probes as safetensors."""
        tensors = {name: getattr(self, name).contiguous() for name in _NAMES}
        if self.answers is not None:
            tensors |= {_OF_ANSWERS + name: getattr(self.answers, name).contiguous() for name in _NAMES}
        save_file(tensors, path)

    @classmethod
    def load(
        cls,
        path: Path,
        layer: int,
        hidden_size: int,
        answer_layer: int | None = None,
        kinds: Sequence[str] = (),
    ) -> GateProbe:
        """Read a probe, and with `answer_layer` the one on whole answers, which knows these kinds.

        Raises:
            ModelLoadError: The file is corrupt or does not fit the model.
        """
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(
                f"The gate {path} cannot be read: {error}. Fetch or train the aligner again."
            ) from error
        shapes = {name: tuple(tensors[name].shape) for name in _NAMES if name in tensors}
        widths = [parts * hidden_size + 2 for parts in (2, 3)]
        if shapes not in [{"mean": (wide,), "scale": (wide,), "weight": (wide,), "bias": ()} for wide in widths]:
            raise ModelLoadError(
                f"The gate {path} does not fit a model of hidden size {hidden_size}: it holds {shapes}, need {widths[0]} or "
                f"{widths[1]} weights."
            )
        answers = None
        if answer_layer is not None:
            found = {name: tensors[_OF_ANSWERS + name].float() for name in _NAMES if _OF_ANSWERS + name in tensors}
            width, many = _PARTS * hidden_size, len(kinds)
            expected = {"mean": (width,), "scale": (width,), "weight": (many, width), "bias": (many,)}
            if {name: tuple(tensor.shape) for name, tensor in found.items()} != expected:
                raise ModelLoadError(
                    f"The gate {path} does not fit a model of hidden size {hidden_size} that objects to {', '.join(kinds)}. "
                    "Fetch or train the aligner again."
                )
            answers = AnswerProbe(answer_layer, tuple(kinds), **found)
        return cls(layer, **{name: tensors[name].float() for name in _NAMES}, answers=answers)


def token_features(
    before: torch.Tensor, after: torch.Tensor, gaps: torch.Tensor, logprobs: torch.Tensor
) -> torch.Tensor:
    """Return the probe's features, shape (tokens, 3 * hidden + 2).

    Args:
        before: Hidden states that predict each token, shape (tokens, hidden).
        after: Hidden states that have read each token, same shape.
        gaps: Nats by which another token is preferred, shape (tokens,).
        logprobs: Log-probabilities of the tokens in nats, shape (tokens,).
    """
    numbers = torch.log1p(torch.stack([gaps, -logprobs], 1).clamp(min=0))
    return torch.cat([before.float(), after.float(), numbers.float(), before[:1].float().expand_as(before)], 1)


def answer_features(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the features of a whole answer, shape (3 * hidden,); the arguments are those of `token_features`."""
    return torch.cat([before[0].float(), after.float().mean(0), after[-1].float()])
