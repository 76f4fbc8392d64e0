"""The temporal modeling module: what AdViSe trains."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from advise_ray.config import TMMConfig


class Bottleneck3D(nn.Module):
    """A residual block that mixes time first, then space: k×1×1, 1×3×3, 1×1×1 (paper, section 3)."""

    def __init__(self, in_dim: int, inner_dim: int, out_dim: int, temporal_kernel: int, spatial_kernel: int) -> None:
        super().__init__()
        last_norm = nn.BatchNorm3d(out_dim)
        self.branch = nn.Sequential(
            nn.Conv3d(in_dim, inner_dim, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False),
            nn.BatchNorm3d(inner_dim),
            nn.ReLU(inplace=True),
            nn.Conv3d(
                inner_dim,
                inner_dim,
                (1, spatial_kernel, spatial_kernel),
                padding=(0, spatial_kernel // 2, spatial_kernel // 2),
                bias=False,
            ),
            nn.BatchNorm3d(inner_dim),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner_dim, out_dim, 1, bias=False),
            last_norm,
        )
        # A block starts as its shortcut: deep stacks then train from the first step (arXiv 1706.02677, section 5.1).
        nn.init.zeros_(last_norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if in_dim != out_dim:
            self.shortcut = nn.Sequential(nn.Conv3d(in_dim, out_dim, 1, bias=False), nn.BatchNorm3d(out_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, in_dim, T, s, s] → float[B, out_dim, T, s, s]."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def build_tmm(config: TMMConfig, in_dim: int, grid_size: tuple[int, int]) -> nn.Module:
    """A module float[B, in_dim, T, s, s] → float[B, config.out_dim, T, s, s].

    On a grid of 1×1 there is no space to mix: the spatial kernels shrink to 1.
    """
    spatial_kernel = 3 if max(grid_size) > 1 else 1
    dims = [in_dim] + [config.out_dim] * config.num_blocks
    return nn.Sequential(
        *(
            Bottleneck3D(before, config.inner_dim, after, config.temporal_kernel, spatial_kernel)
            for before, after in itertools.pairwise(dims)
        )
    )
