"""Pooling of the TMM's output to an embedding, and classifiers on the embedding."""

from __future__ import annotations

import torch
from torch import nn

from advise_ray.config import HeadConfig


class MeanPool(nn.Module):
    """The average over all cells of all frames."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, E, T, s, s] → float[B, E]."""
        return x.mean((2, 3, 4))


class AttentivePool(nn.Module):
    """Attention of a learnt query over all cells of all frames (the attentive probe of V-JEPA, arXiv 2404.08471)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, E, T, s, s] → float[B, E]."""
        cells = self.norm(x.flatten(2).mT)
        seen: torch.Tensor = self.attention(self.query.expand(len(x), -1, -1), cells, cells, need_weights=False)[0]
        return seen.squeeze(1)


class MeanMaxPool(nn.Module):
    """The average over all cells, and the average over time of the strongest cell of each frame."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, E, T, s, s] → float[B, 2 E]."""
        return torch.cat([x.mean((2, 3, 4)), x.amax((3, 4)).mean(2)], dim=1)


class Looks(nn.Module):
    """A clip's looks (appearance): its mean feature, with each channel at mean 0 and std 1, times a weight.

    Motion and looks are two streams (arXiv 1406.2199) from one image model.
    """

    def __init__(self, channels: int, weight: float, *, centres: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.weight, self.centres = weight, centres

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """Return the TMM's input: the features float[B, C, T, s, s], minus their mean over time if `centres` is set."""
        return x - x.mean(2, keepdim=True) if self.centres else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features float[B, C, T, s, s] → float[B, C]."""
        looks: torch.Tensor = self.weight * self.norm(x.mean((2, 3, 4)))
        return looks


def build_pool(config: HeadConfig, dim: int) -> nn.Module:
    """Build a module float[B, dim, T, s, s] → embedding float[B, pooled_dim(config, dim)]."""
    if config.pooling == "attention":
        pool: nn.Module = AttentivePool(dim, config.num_heads)
    else:
        pool = MeanMaxPool() if config.pooling == "mean_max" else MeanPool()
    if not config.normalise:
        return pool
    return nn.Sequential(pool, nn.BatchNorm1d(pooled_dim(config, dim), affine=False))


def pooled_dim(config: HeadConfig, dim: int) -> int:
    """Return the number of channels of the pooled embedding, for a TMM with `dim` output channels."""
    return 2 * dim if config.pooling == "mean_max" else dim


def build_head(config: HeadConfig, in_dim: int, num_classes: int) -> nn.Sequential:
    """Build an MLP float[B, in_dim] → logits float[B, num_classes]. With one layer it is linear."""
    layers: list[nn.Module] = []
    for _ in range(config.num_layers - 1):
        layers += [nn.Linear(in_dim, config.hidden_dim), nn.BatchNorm1d(config.hidden_dim), nn.ReLU(inplace=True)]
        in_dim = config.hidden_dim
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers, nn.Linear(in_dim, num_classes))
