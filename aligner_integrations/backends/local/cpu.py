"""What makes an aligner fast on a CPU: packed linear layers, and attention that reads shared keys and values once.

Packed: the weights of float32 layers laid out once the way oneDNN's kernels read them. torch lays them out anew at every
call, or multiplies by a kernel that needs no layout and is slow for the few tokens of a decoding step: packed ones take half
the time for one token and two thirds for hundreds. The numbers are float32 as before, summed in another order.

Attention, for models whose heads share keys and values (grouped queries): with a mask, transformers writes each key and value
out once a head before it multiplies, in every layer and every pass. Here the heads that share them are further rows of one
product, which reads them once; a mask is what a batch always has. The numbers are the same ones. It is registered with
transformers under a name.

The model stays an ordinary one: the same module tree, the same parameters. When it is done: `loading.py`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

logger = logging.getLogger(__name__)

GROUPED = "sdpa_grouped"
"""Name of the attention in transformers' registry."""

# Packed weights lie beside the plain ones, so only models for which that is little get them.
_MOST_BYTES = 2**30
# The packed layout is made for so many tokens a call; it is as good for one, and for hundreds.
_TOKENS = 16


class PackedLinear(nn.Linear):
    """A linear layer without gradient whose weight is packed at its first call, and again after a change in place.

    Args:
        plain: The layer whose parameters it shares.
    """

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._packed: tuple[Any, torch.Tensor] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name nn.Linear gives it
        """Multiply; input and output as of nn.Linear."""
        weight = self.weight
        if input.dtype != torch.float32 or weight.dtype != torch.float32 or weight.requires_grad:
            return super().forward(input)
        if input.device.type != "cpu" or weight.device.type != "cpu" or not input.numel():
            return super().forward(input)
        # A parameter made in inference mode has no version, and cannot change in place outside of it.
        state = (weight.data_ptr(), None if weight.is_inference() else weight._version)
        packed = self._packed
        if packed is None or packed[0] != state:
            packed = self._packed = state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _TOKENS)
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, packed[1], self.bias, "none", [], "")
        return output

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed weight out of copies and pickles, which cannot hold its layout."""
        return {**self.__dict__, "_packed": None}


def pack(model: Any) -> None:
    """Pack a model's plain linear layers if it runs in float32 on a CPU, is small enough and torch can; see the module."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"
    }
    size = sum(layer.weight.nbytes for layer in layers.values())
    if not 0 < size <= _MOST_BYTES or not _works():
        return
    for name, layer in layers.items():
        model.set_submodule(name, PackedLinear(layer))


def _works() -> bool:
    """Whether this build of torch packs, and multiplies as it should: these operators are not part of its public interface."""
    with torch.no_grad():
        # Nothing random: whoever has seeded torch gets the numbers of that seed, whether a model was loaded since or not.
        plain = nn.utils.skip_init(nn.Linear, 48, 32).requires_grad_(False)
        plain.weight.copy_(torch.linspace(-1, 1, 48 * 32).sin().view(32, 48))
        plain.bias.copy_(torch.linspace(-1, 1, 32))
        sample = torch.linspace(-2, 3, 3 * 48).cos().view(3, 48)
        try:
            off = float((PackedLinear(plain)(sample) - plain(sample)).abs().max())
        except Exception as error:  # noqa: BLE001 - whatever is wrong, plain layers do as well
            logger.info("Linear layers are not packed: %s: %s.", type(error).__name__, error)
            return False
    if not off < 1e-4:
        logger.warning("Linear layers are not packed: this build of torch is off by %g when they are.", off)
        return False
    return True


def grouped_attention(
    module: nn.Module,
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
    output = nn.functional.scaled_dot_product_attention(
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
        model.set_attn_implementation(GROUPED)


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
