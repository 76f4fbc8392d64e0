"""The classifier on a clip's embedding."""

from __future__ import annotations

from torch import nn

from advise_ray.config import HeadConfig


def build_head(config: HeadConfig, in_dim: int, num_classes: int) -> nn.Sequential:
    """An MLP float[B, in_dim] → logits float[B, num_classes]; one layer makes it linear."""
    layers: list[nn.Module] = []
    for _ in range(config.num_layers - 1):
        layers += [nn.Linear(in_dim, config.hidden_dim), nn.BatchNorm1d(config.hidden_dim), nn.ReLU(inplace=True)]
        in_dim = config.hidden_dim
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers, nn.Linear(in_dim, num_classes))
