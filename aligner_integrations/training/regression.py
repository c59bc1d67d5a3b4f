"""Logistic regression on features of hidden states: what the gate's probes are learnt by."""

from __future__ import annotations

import torch


def regress(
    features: torch.Tensor, labels: torch.Tensor, *, decay: float, most_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and bias, by L-BFGS with weight decay.

    Args:
        features: Normalised ones, of shape (examples, features).
        labels: 0 or 1, of shape (examples,).
        decay: How much the square of the weights counts.
        most_steps: Most steps of L-BFGS.
    """
    weight = torch.zeros(features.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=most_steps)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ weight + bias, labels)
        loss = loss + decay * (weight * weight).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
