"""The temporal modeling modules (TMM), the trained part of AdViSe. All kinds map [B, C, T, s, s] to [B, E, T, s, s]."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from advise_ray.config import TMMConfig


def build_tmm(config: TMMConfig, in_dim: int, num_frames: int, grid_size: tuple[int, int]) -> nn.Module:
    """Build a module float[B, in_dim, T, s, s] → float[B, embedding_dim(config, in_dim), T, s, s].

    On a grid of 1×1, spatial kernels have size 1, because there are no neighbouring cells.
    """
    if config.arch == "none":
        return nn.Identity()
    if config.arch == "transformer":
        return SpaceTimeTransformer(config, in_dim, num_frames, grid_size)
    if config.arch == "video_swin":
        from advise_ray.model.swin import VideoSwin  # importing torchvision's models is slow

        return VideoSwin(config, in_dim)
    block = Bottleneck3D if config.arch == "resnet3d" else conv3d_pair
    spatial_kernel = 3 if max(grid_size) > 1 else 1
    dims = itertools.pairwise([in_dim] + [config.out_dim] * config.num_blocks)
    return nn.Sequential(
        *(block(before, config.inner_dim, after, config.temporal_kernel, spatial_kernel) for before, after in dims)
    )


def embedding_dim(config: TMMConfig, in_dim: int) -> int:
    """Return the number of channels of the embedding (E); with `arch: none` these are the input's channels."""
    return in_dim if config.arch == "none" else config.out_dim


def conv3d_pair(in_dim: int, inner_dim: int, out_dim: int, temporal_kernel: int, spatial_kernel: int) -> nn.Sequential:
    """Build two plain 3D convolutions, in → inner → out, as in the paper's code, with our kernels, norms and ReLUs."""
    kernel = (temporal_kernel, spatial_kernel, spatial_kernel)
    padding = (temporal_kernel // 2, spatial_kernel // 2, spatial_kernel // 2)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((in_dim, inner_dim, out_dim)):
        layers += [nn.Conv3d(before, after, kernel, padding=padding, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class Bottleneck3D(nn.Module):
    """A residual block that mixes time first, then space: k×1×1, 1×3×3, 1×1×1."""

    def __init__(
        self, in_dim: int, inner_dim: int, out_dim: int, temporal_kernel: int, spatial_kernel: int, stride: int = 1
    ) -> None:
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
                (1, stride, stride),
                padding=(0, spatial_kernel // 2, spatial_kernel // 2),
                bias=False,
            ),
            nn.BatchNorm3d(inner_dim),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner_dim, out_dim, 1, bias=False),
            last_norm,
        )
        # With a zero weight each block starts as its shortcut, so that deep stacks train from the first step
        # (arXiv 1706.02677, section 5.1).
        nn.init.zeros_(last_norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if in_dim != out_dim:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_dim, out_dim, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(out_dim)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, in_dim, T, s, s] → float[B, out_dim, T, s / stride, s / stride]."""
        # In place is safe: the backward pass of batch norm does not use its output.
        added: torch.Tensor = self.branch(x).add_(self.shortcut(x)).relu_()
        return added


class SpaceTimeTransformer(nn.Module):
    """Pre-norm encoder layers over all cells of all frames, with learnt embeddings of frame and cell positions."""

    def __init__(self, config: TMMConfig, in_dim: int, num_frames: int, grid_size: tuple[int, int]) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, config.out_dim)
        self.frame_position = nn.Parameter(torch.randn(num_frames, 1, config.out_dim) * 0.02)
        self.cell_position = nn.Parameter(torch.randn(grid_size[0] * grid_size[1], config.out_dim) * 0.02)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    config.out_dim,
                    config.num_heads,
                    dim_feedforward=config.inner_dim,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(config.num_blocks)
            )
        )
        self.norm = nn.LayerNorm(config.out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, in_dim, T, s, s] → float[B, out_dim, T, s, s]."""
        tokens = self.project(x.flatten(3).permute(0, 2, 3, 1)) + self.frame_position + self.cell_position
        encoded: torch.Tensor = self.norm(self.layers(tokens.flatten(1, 2)))
        return encoded.mT.reshape(len(x), -1, *x.shape[2:])
