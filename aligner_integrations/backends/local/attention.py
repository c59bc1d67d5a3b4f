"""Attention of a batch on a CPU, for models whose heads share keys and values (grouped queries).

With a mask, transformers writes each key and value out once a head before it multiplies, in every layer and every pass. Here
the heads that share them are further rows of one product, which reads them once; a mask is what a batch always has. The
numbers are the same ones. It is registered with transformers under a name, so the model stays an ordinary one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' "sdpa" does.

    Args:
        module: The attention layer.
        query: Shape (rows, heads, tokens, size).
        key: Shape (rows, shared heads, slots, size).
        value: Shape (rows, shared heads, slots, size).
        attention_mask: Which slots each token sees, shape (rows, 1, tokens, slots); None: all those before it.
        dropout: Share of the weights that is dropped.
        scaling: Factor of the products.
        **kwargs: Whatever else a model passes.

    Returns:
        The output, shape (rows, tokens, heads, size), and no weights.
    """
    rows, heads, tokens, size = query.shape
    shared = key.shape[1]
    special = any(kwargs.get(name) is not None for name in ("position_bias", "softcap", "cache"))
    if attention_mask is None or attention_mask.shape[1] != 1 or shared == heads or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    groups = heads // shared
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, shared, groups * tokens, size),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


def share_heads(model: Any) -> None:
    """Let a model on a CPU that uses transformers' "sdpa" use this instead."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
