"""AdViSe assembled: frozen image model → SFU → trained TMM and head (paper, figure 2)."""

from __future__ import annotations

import torch
from torch import nn

from advise_ray.config import Config, ModelConfig
from advise_ray.model.heads import build_head
from advise_ray.model.ifm import IFM, build_ifm, empty_ifm
from advise_ray.model.sfu import SFU, output_shape
from advise_ray.model.tmm import build_tmm


class TemporalModel(nn.Module):
    """TMM and head: all that is trained, wrapped in DDP and saved."""

    def __init__(self, tmm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.tmm = tmm
        self.head = head

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, C, T, s, s] → embedding float[B, E]: the TMM's output averaged over time and space."""
        embedding: torch.Tensor = self.tmm(x).mean((2, 3, 4))
        return embedding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, C, T, s, s] → logits float[B, classes]."""
        logits: torch.Tensor = self.head(self.embed(x))
        return logits


class AdViSe(nn.Module):
    """The whole model, from pixels to logits."""

    def __init__(self, ifm: IFM, sfu: SFU, temporal: TemporalModel) -> None:
        super().__init__()
        self.ifm = ifm
        self.sfu = sfu
        self.temporal = temporal

    @torch.no_grad()
    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """The frozen half: uint8[B, T, H, W, 3] → float32[B, C, T, s, s]."""
        grids: torch.Tensor = self.ifm(clips.flatten(0, 1))
        compressed: torch.Tensor = self.sfu(grids.unflatten(0, clips.shape[:2]))
        return compressed

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8[B, T, H, W, 3] → embedding float[B, E]."""
        return self.temporal.embed(self.features(clips))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8[B, T, H, W, 3] → logits float[B, classes]."""
        logits: torch.Tensor = self.temporal(self.features(clips))
        return logits


def build_advise(config: Config, num_classes: int) -> AdViSe:
    """The model with its image model's weights and a fresh TMM and head, drawn by `config.seed`.

    Raises:
        ConfigError: what does not fit together, and why.
    """
    return _assemble(config, num_classes, build_ifm(config.model.ifm, config.augment.crop_size_px))


def empty_advise(config: Config, num_classes: int) -> AdViSe:
    """The same without the image model's weights, which the driver sends."""
    return _assemble(config, num_classes, empty_ifm(config.model.ifm, config.augment.crop_size_px))


def _assemble(config: Config, num_classes: int, ifm: IFM) -> AdViSe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        temporal = _build_temporal(config.model, ifm, num_classes)
    return AdViSe(ifm, SFU(config.model.sfu), temporal)


def _build_temporal(model: ModelConfig, ifm: IFM, num_classes: int) -> TemporalModel:
    channels, grid_size = output_shape(model.sfu, ifm.feature_dim, ifm.grid_size)
    tmm = build_tmm(model.tmm, channels, grid_size)
    return TemporalModel(tmm, build_head(model.head, model.tmm.out_dim, num_classes))
