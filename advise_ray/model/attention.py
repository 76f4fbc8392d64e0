"""Self-attention of OpenCLIP's vision transformers by torch's fused kernels, on every device and under autocast."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class FusedSelfAttention(nn.MultiheadAttention):
    """Computes `nn.MultiheadAttention` of x on x without a mask. It has the same weights, with the same names.

    `nn.MultiheadAttention` uses a fused kernel only outside autocast and torch.compile. Otherwise it multiplies
    transposed tensors, which in bf16 on CPUs is many times slower.
    """

    def forward(  # type: ignore[override]  # OpenCLIP calls it with x three times
        self, x: torch.Tensor, *_same: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """float[N, L, E] → (float[N, L, E], None)."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def fuse_attention(blocks: nn.Module) -> None:
    """Let every plain self-attention of transformer blocks compute as `FusedSelfAttention`."""
    for block in blocks.children():
        attention = getattr(block, "attn", None)
        if type(attention) is nn.MultiheadAttention and attention.batch_first and attention._qkv_same_embed_dim:
            attention.__class__ = FusedSelfAttention
