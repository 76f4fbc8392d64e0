"""Self-attention of OpenCLIP's vision transformers on GPUs: by torch's fused kernels, also under autocast."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class FusedSelfAttention(nn.MultiheadAttention):
    """Computes `nn.MultiheadAttention` of x on x without a mask. It has the same weights, with the same names.

    On a GPU, `nn.MultiheadAttention` uses a fused kernel only outside autocast and torch.compile. On a CPU its own
    kernel is used.
    """

    def forward(  # type: ignore[override]  # OpenCLIP calls it with x three times
        self, x: torch.Tensor, *same: Any, **how: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """float[N, L, E] → (float[N, L, E], None)."""
        return (self.fused(x), None) if x.is_cuda else super().forward(x, *same, **how)

    def fused(self, x: torch.Tensor) -> torch.Tensor:
        """float[N, L, E] → float[N, L, E], on any device."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


def fuse_attention(blocks: nn.Module) -> None:
    """Let every plain self-attention of transformer blocks compute as `FusedSelfAttention`."""
    for block in blocks.children():
        attention = getattr(block, "attn", None)
        if type(attention) is nn.MultiheadAttention and attention.batch_first and attention._qkv_same_embed_dim:
            attention.__class__ = FusedSelfAttention
