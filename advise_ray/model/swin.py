"""Video Swin as a TMM, built from torchvision's blocks. It is a separate module, because importing them is slow."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformerBlock

from advise_ray.config import TMMConfig

WINDOW = (4, 7, 7)
"""Frames, rows and columns of a Video Swin attention window, for the 8 frames and 7×7 grid of a clip."""


class VideoSwin(nn.Module):
    """Blocks of attention within windows of 4×7×7 cells; in every second block, windows are shifted by half.

    The blocks are torchvision's (arXiv 2106.13230). A window larger than the clip or its grid shrinks to that size.
    """

    def __init__(self, config: TMMConfig, in_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, config.out_dim)
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    config.out_dim,
                    config.num_heads,
                    window_size=list(WINDOW),
                    shift_size=[size // 2 if number % 2 else 0 for size in WINDOW],
                    mlp_ratio=config.inner_dim / config.out_dim,
                    attn_layer=ShiftedWindowAttention3d,
                )
                for number in range(config.num_blocks)
            )
        )
        self.norm = nn.LayerNorm(config.out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, in_dim, T, s, s] → float[B, out_dim, T, s, s]."""
        out: torch.Tensor = self.norm(self.blocks(self.project(x.movedim(1, -1)))).movedim(-1, 1)
        return out
