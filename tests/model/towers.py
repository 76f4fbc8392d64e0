"""Small image models and frames, and the results of their libraries for comparison."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.model.ifm import IFM, build_ifm


def build(name: str, weights: str | Path = "none", size_px: int = 64, **settings) -> IFM:
    return build_ifm(IFMConfig(name=name, weights=str(weights), **{"precision": "fp32", **settings}), size_px)


def noise(num_frames: int, size_px: int = 64) -> torch.Tensor:
    return torch.randint(
        256, (num_frames, size_px, size_px, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def normalise(frames: torch.Tensor, mean: tuple[float, ...] = (0.5,) * 3, std: tuple[float, ...] = (0.5,) * 3):
    return ((frames / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Weights that no `none` gives, batch-norm statistics among them."""
    torch.manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    return module.eval()


def tiny_timm(name: str, seed: int, **settings) -> nn.Module:
    return randomise(timm.create_model(name, **settings), seed)
