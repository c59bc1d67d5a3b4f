"""The gate's probe: a linear classifier on the aligner's own hidden states, one decision a token.

The paper saw that whether an aligner will copy or correct can be read from its early layers (appendix B.6). The probe
reads, for each token of an answer, the hidden state that predicts it and the one that has read it, with the token's gap
and loss. An answer's score is its largest token's. Training it: `training/gate.py`; where the states come from: `scoring.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aligner_integrations.errors import ModelLoadError

_NAMES = ("mean", "scale", "weight", "bias")


@dataclass(frozen=True, slots=True)
class GateProbe:
    """A trained probe.

    Attributes:
        layer: Index into `hidden_states` (0 is the embedding).
        mean: Mean of each feature, shape (2 * hidden + 2,).
        scale: Standard deviation of each feature, same shape.
        weight: Weights on the normalised features, same shape.
        bias: Shape ().
    """

    layer: int
    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def marks(self, features: torch.Tensor) -> torch.Tensor:
        """Return one logit a token; features have shape (tokens, 2 * hidden + 2)."""
        return ((features.float() - self.mean) / self.scale) @ self.weight + self.bias

    def save(self, path: Path) -> None:
        """Write the probe as safetensors."""
        save_file({name: getattr(self, name).contiguous() for name in _NAMES}, path)

    @classmethod
    def load(cls, path: Path, layer: int, hidden_size: int) -> GateProbe:
        """Read a probe.

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
        wide = (2 * hidden_size + 2,)
        if shapes != {"mean": wide, "scale": wide, "weight": wide, "bias": ()}:
            raise ModelLoadError(
                f"The gate {path} does not fit a model of hidden size {hidden_size}: it holds {shapes}, need {wide[0]} weights."
            )
        return cls(layer, **{name: tensors[name].float() for name in _NAMES})


def token_features(
    before: torch.Tensor, after: torch.Tensor, gaps: torch.Tensor, logprobs: torch.Tensor
) -> torch.Tensor:
    """Return the probe's features, shape (tokens, 2 * hidden + 2).

    Args:
        before: Hidden states that predict each token, shape (tokens, hidden).
        after: Hidden states that have read each token, same shape.
        gaps: Nats by which another token is preferred, shape (tokens,).
        logprobs: Log-probabilities of the tokens in nats, shape (tokens,).
    """
    numbers = torch.log1p(torch.stack([gaps, -logprobs], 1).clamp(min=0))
    return torch.cat([before.float(), after.float(), numbers.float()], 1)
