"""Attention of fewer heads than its width would have: what `torch.nn` has no layer for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SlimAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` after heads, or channels around it, were removed.

    Heads keep their width, so that ``num_heads * head_dim`` is no longer ``embed_dim``. A layer
    becomes one by `slim`, never by its constructor.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `torch.nn.MultiheadAttention.forward`."""
        is_batched = query.ndim == 3
        tokens = [self._batch_first(tensor, is_batched) for tensor in (query, key, value)]
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        queries, keys, values = (
            torch.unflatten(functional.linear(t, w, b), -1, (self.num_heads, -1)).transpose(1, 2)
            for t, w, b in zip(tokens, weights, biases, strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, queries, keys.shape[2])
        scores = queries @ keys.transpose(-2, -1) * self.head_dim**-0.5
        scores = (scores if mask is None else scores + mask).softmax(-1)
        made = functional.dropout(scores, self.dropout, self.training) @ values
        out = self.out_proj(made.transpose(1, 2).flatten(2))
        if average_attn_weights:
            scores = scores.mean(1)
        if not is_batched:
            return out.squeeze(0), scores.squeeze(0) if need_weights else None
        out = out if self.batch_first else out.transpose(0, 1)
        return out, scores if need_weights else None

    def _batch_first(self, tensor: torch.Tensor, is_batched: bool) -> torch.Tensor:
        if not is_batched:
            return tensor.unsqueeze(0)
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def _mask(
        self,
        attention: torch.Tensor | None,
        padding: torch.Tensor | None,
        query: torch.Tensor,
        n_keys: int,
    ) -> torch.Tensor | None:
        """What is added to the scores, (batch, heads, queries, keys)."""
        total: torch.Tensor | None = None
        if attention is not None:
            total = _added(attention, query)
            if total.ndim == 3:  # one a head
                total = total.view(len(query), -1, *total.shape[1:])[:, : self.num_heads]
        if padding is not None:
            ignored = _added(padding, query).view(-1, 1, 1, n_keys)
            total = ignored if total is None else total + ignored
        return total


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(
        mask, float("-inf")
    )


def is_odd_attention(module: nn.Module) -> bool:
    """Whether a module is an attention of torch with more than `SlimAttention` has: it stays whole.

    Widths of keys of their own, or keys and values that are added.
    """
    return isinstance(module, nn.MultiheadAttention) and (
        module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn
    )


def slim(module: Any) -> None:
    """Fit an attention layer to its tensors, in place."""
    rows, width = module.in_proj_weight.shape
    module.num_heads = rows // (3 * module.head_dim)
    module.embed_dim = module.kdim = module.vdim = width
    if module.num_heads * module.head_dim != width:
        module._qkv_same_embed_dim = False  # no shortcut of torch's own past `forward`
        module.__class__ = SlimAttention
