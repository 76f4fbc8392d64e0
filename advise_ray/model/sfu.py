"""Spatial feature utilization (SFU): compresses the frozen features before the TMM (paper, figures 3 and 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from advise_ray.config import SFUConfig
from advise_ray.errors import ConfigError


class SFU(nn.Module):
    """Pools space, pools channels, and centres over time. It has no parameters; each step is optional.

    The pooling steps come first, in the image model's precision. For N frames the cost is one pass over N·D·h·w numbers
    (space), one over N·D·s² (channels), and then N·C·s² numbers in the format of the result. Space and channels are
    averages over different axes, so their order does not change the result.

    Args:
        centres: False if later code needs the mean over time and subtracts it itself.
        exact: True if later code needs fp32, because the features are not only cast for a product of matrices.
    """

    def __init__(self, config: SFUConfig, *, centres: bool = True, exact: bool = False) -> None:
        super().__init__()
        self.config = config
        self.centres = centres and config.temporal_centering
        self.exact = exact

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compress and arrange features: [B, T, D, h, w] in any float format → float32[B, C, T, s, s]."""
        return self.arrange(self.compress(features.flatten(0, 1)).unflatten(0, features.shape[:2]))

    def compress(self, features: torch.Tensor) -> torch.Tensor:
        """Pool the features of single frames: [N, D, h, w] → [N, C, s, s], in the same format."""
        x = features
        if self.config.spatial_size is not None and x.shape[-2:] != (self.config.spatial_size,) * 2:
            x = F.adaptive_avg_pool2d(x, self.config.spatial_size)
        if self.config.channels is not None and x.shape[1] != self.config.channels:
            # Averages neighbouring channels: [N, D, h, w] seen as [N, h * w positions, D].
            x = F.adaptive_avg_pool1d(x.flatten(2).mT, self.config.channels).mT.unflatten(2, x.shape[-2:])
        return x

    def arrange(self, frames: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Arrange compressed frames as clips, centred over time: [B, T, C, s, s] → dtype[B, C, T, s, s].

        Args:
            dtype: Format in which the temporal module computes; the result is float32 if the module needs it exactly.
                The mean and the difference are computed in fp32; in another format no fp32 copy is kept.
        """
        if self.exact:
            dtype = torch.float32
        if not self.centres:
            return frames.to(dtype).transpose(1, 2)
        mean = frames.mean(1, keepdim=True, dtype=torch.float32)
        return (frames - mean).to(dtype).transpose(1, 2)


def output_shape(config: SFUConfig, feature_dim: int, grid_size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return the channels (C) and the grid size after the SFU.

    Raises:
        ConfigError: The settings need more channels or a larger grid than the image model has.
    """
    problems = []
    if config.channels is not None and config.channels > feature_dim:
        problems.append(f"model.sfu.channels: {config.channels} is more than the image model's {feature_dim} channels")
    if config.spatial_size is not None and config.spatial_size > min(grid_size):
        problems.append(
            f"model.sfu.spatial_size: {config.spatial_size} is larger than the image model's "
            f"{grid_size[0]}×{grid_size[1]} grid"
        )
    if problems:
        raise ConfigError(problems)
    size = (config.spatial_size, config.spatial_size) if config.spatial_size is not None else grid_size
    return config.channels or feature_dim, size
