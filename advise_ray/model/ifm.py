"""The image foundation model: frozen, from timm or open_clip, one patch-feature grid a frame."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import warnings
from typing import Any

import torch
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError
from advise_ray.model.open_clip_tower import build_open_clip
from advise_ray.model.precision import DTYPES, arithmetic
from advise_ray.model.timm_tower import build_timm
from advise_ray.model.tower import Tower
from advise_ray.model.weights import one_line

CPU_CHUNK_PX = 2**18
"""Pixels that go through the model at once on a CPU: activations then stay in its caches. Measured with lite0 in bf16
on 2 cores at 128 px: 2.7 times as fast as 256 frames at once."""


class IFM(nn.Module):
    """A frozen image model as a function from frames to feature grids.

    It cannot be trained by mistake: `train()` leaves it in eval mode, no parameter asks for a gradient, and `forward`
    records none.

    Attributes:
        dtype: number format of its weights; `arithmetic` says what is computed in.
        feature_dim: channels of the grid (D).
        grid_size: (h, w) at the input size that it was built for.
        interpolation: how images were resized for it when it was trained, `bicubic`, `bilinear`, …
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tower: Tower, dtype: torch.dtype, input_size_px: int, *, compiled: bool = False) -> None:
        super().__init__()
        self.backbone = tower.backbone.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
        self.backbone.to(arithmetic(dtype, "cpu"))  # rounded to `dtype` for good, whatever it is computed in
        # For pixels from 0 to 255. They belong to the weights and travel with them: tags of one architecture differ.
        self.register_buffer("mean", torch.tensor(tower.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(tower.std).view(1, 3, 1, 1) * 255)
        self.interpolation = tower.interpolation
        self.dtype = dtype
        self.training = False
        self._grid = tower.grid
        features = self(torch.zeros(1, input_size_px, input_size_px, 3, dtype=torch.uint8))
        self.feature_dim = features.shape[1]
        self.grid_size: tuple[int, int] = (features.shape[2], features.shape[3])
        if compiled:  # at the first batch; the last chunk of a batch is smaller, hence dynamic
            self._grid = torch.compile(tower.grid, dynamic=True)

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8[N, H, W, 3], RGB → [N, D, h, w] in what is computed in, normalised with the model's mean and std."""
        if frames.device.type != "cpu":
            return self.encode(frames)
        frames_at_once = max(1, CPU_CHUNK_PX // (frames.shape[1] * frames.shape[2]))
        return torch.cat([self.encode(chunk) for chunk in frames.split(frames_at_once)])

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """The same, all frames at once."""
        images = frames.movedim(-1, 1)  # NHWC in memory is channels-last already: no copy
        normalised = torch.addcmul(-self.mean / self.std, images, 1 / self.std)  # from uint8 in one pass
        return self._grid(normalised.to(arithmetic(self.dtype, frames.device.type)))

    def _apply(self, fn: Any, recurse: bool = True) -> IFM:
        """Of `to(device)` and its like: there, another format may be the fast one."""
        super()._apply(fn, recurse)
        self.backbone.to(arithmetic(self.dtype, self.mean.device.type))
        return self

    def train(self, mode: bool = True) -> IFM:
        """Stay in eval mode, whoever asks: batch-norm statistics and dropout of a frozen model never move."""
        return self

    def hash_weights(self) -> str:
        """SHA-256 over names, shapes and bytes of all parameters and buffers in `dtype`, the same on any device."""
        digest = hashlib.sha256()
        for name, held in sorted(self.state_dict().items()):
            is_weight = name.startswith("backbone.") and held.is_floating_point()
            tensor = held.to(self.dtype) if is_weight else held
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def build_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The image model with its weights, as `config` names them.

    Raises:
        ConfigError: the name or the layer is not known, the weights are not there or do not fit.
    """
    return _build(config, input_size_px, config.weights)


@functools.lru_cache(maxsize=1)
def kept_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The same, and the same one again: it is frozen, and many short runs in one process need not build it anew."""
    return build_ifm(config, input_size_px)


def empty_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The image model without its weights, for a state dict that another process sends: no file, no network."""
    return _build(config, input_size_px, "none")


def _build(config: IFMConfig, input_size_px: int, weights: str) -> IFM:
    compilers = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if config.compile and not torch.cuda.is_available() and not any(map(shutil.which, compilers)):
        problem = "model.ifm.compile: torch.compile needs a C++ compiler here; apt-get install g++, or set it to false"
        raise ConfigError([problem])
    library, _, name = config.name.partition(":")
    build = {"timm": build_timm, "open_clip": build_open_clip}[library]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(0)  # random weights are the same in every process
            warnings.simplefilter("ignore")
            tower = build(name, weights, input_size_px, config.layer)
        return IFM(tower, DTYPES[config.precision], input_size_px, compiled=config.compile)
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:  # a size below or between its patches
        problem = f"augment.crop_size_px: {config.name} cannot take {input_size_px} px: {one_line(error)}"
        raise ConfigError([problem]) from None
