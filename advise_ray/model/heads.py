"""From the TMM's output to an embedding, and from that to classes."""

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
    """A learnt query looks at all cells of all frames (the attentive probe of V-JEPA, arXiv 2404.08471)."""

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
    """A clip's looks: its mean feature, at mean 0 and deviation 1 by channel, times a weight.

    Beside what moves it is the other of two streams (arXiv 1406.2199), out of one image model.
    """

    def __init__(self, channels: int, weight: float, *, centres: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.weight, self.centres = weight, centres

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """What the TMM sees of the features float[B, C, T, s, s]: all, or without their mean over time."""
        return x - x.mean(2, keepdim=True) if self.centres else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features float[B, C, T, s, s] → float[B, C]."""
        looks: torch.Tensor = self.weight * self.norm(x.mean((2, 3, 4)))
        return looks


def build_pool(config: HeadConfig, dim: int) -> nn.Module:
    """float[B, dim, T, s, s] → embedding float[B, pooled_dim(config, dim)]."""
    if config.pooling == "attention":
        pool: nn.Module = AttentivePool(dim, config.num_heads)
    else:
        pool = MeanMaxPool() if config.pooling == "mean_max" else MeanPool()
    if not config.normalise:
        return pool
    return nn.Sequential(pool, nn.BatchNorm1d(pooled_dim(config, dim), affine=False))


def pooled_dim(config: HeadConfig, dim: int) -> int:
    """Channels of the embedding of motion, of a TMM that gives `dim`."""
    return 2 * dim if config.pooling == "mean_max" else dim


def build_head(config: HeadConfig, in_dim: int, num_classes: int) -> nn.Sequential:
    """An MLP float[B, in_dim] → logits float[B, num_classes]; one layer makes it linear."""
    layers: list[nn.Module] = []
    for _ in range(config.num_layers - 1):
        layers += [nn.Linear(in_dim, config.hidden_dim), nn.BatchNorm1d(config.hidden_dim), nn.ReLU(inplace=True)]
        in_dim = config.hidden_dim
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers, nn.Linear(in_dim, num_classes))
