"""R3D-50, for comparison: a Slow-R50 3D network on pixels, trained end to end (arXiv 1812.03982, table 1, slow)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn

from advise_ray.model.tmm import Bottleneck3D

EMBEDDING_DIM = 2048
MEAN, STD = 0.45, 0.225
STAGES = ((3, 64, 1), (4, 128, 1), (6, 256, 3), (3, 512, 3))
"""Blocks, inner channels and temporal kernel of each stage."""


class Pixels(nn.Module):
    """Replaces the image model for R3D-50: returns the normalised frames. It has no weights."""

    feature_dim = 3
    interpolation = "bilinear"
    input_dtype = torch.float32

    def __init__(self, input_size_px: int) -> None:
        super().__init__()
        self.grid_size = (input_size_px, input_size_px)

    def forward(self, frames: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Normalise RGB frames, uint8[N, H, W, 3] → float32[N, 3, H, W], and apply `reduce`.

        Floats are normalised already.
        """
        return reduce((frames if frames.is_floating_point() else self.normalise(frames)).movedim(-1, 1))

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalise RGB pixels from 0 to 255, [N, H, W, 3] in any format → float32[N, H, W, 3]."""
        return (frames / (255 * STD)).sub_(MEAN / STD)

    def hash_weights(self) -> str:
        """Return the SHA-256 of the mean and std that normalise the pixels."""
        return hashlib.sha256(f"pixels {MEAN} {STD}".encode()).hexdigest()


def build_r3d50() -> nn.Sequential:
    """Build the network: normalised pixels float[B, 3, T, H, W] → float[B, 2048, T, H / 32, W / 32]."""
    layers: list[nn.Module] = [
        nn.Conv3d(3, 64, (1, 7, 7), (1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
    ]
    in_dim = 64
    for stage, (num_blocks, inner_dim, temporal_kernel) in enumerate(STAGES):
        for number in range(num_blocks):
            stride = 2 if stage > 0 and number == 0 else 1
            layers.append(Bottleneck3D(in_dim, inner_dim, 4 * inner_dim, temporal_kernel, 3, stride))
            in_dim = 4 * inner_dim
    # Convolutions on CPUs and tensor cores are faster with channels last.
    return nn.Sequential(*layers).to(memory_format=torch.channels_last_3d)
