"""The frozen image foundation model (IFM), from timm or OpenCLIP. It computes a feature grid for each frame."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError
from advise_ray.model.chunks import CPU_CHUNK_PX, GPU_CHUNKS, choose_chunk
from advise_ray.model.open_clip_tower import build_open_clip
from advise_ray.model.precision import DTYPES, arithmetic
from advise_ray.model.timm_tower import build_timm
from advise_ray.model.tower import Tower
from advise_ray.model.weights_file import one_line

Reduce = Callable[[torch.Tensor], torch.Tensor]


class IFM(nn.Module):
    """A frozen image model: a function from frames to feature grids.

    It cannot be trained by mistake: `train()` leaves it in eval mode, no parameter requires gradients, and `forward`
    records none.

    Attributes:
        dtype: Number format of the weights. The arithmetic may use another format, see `precision.arithmetic`.
        feature_dim: Channels of the grid (D).
        grid_size: (h, w) of the grid at the input size that the model was built for.
        interpolation: Interpolation that resized images in the model's training: `bicubic`, `bilinear`, …
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tower: Tower, dtype: torch.dtype, input_size_px: int, *, compiled: bool = False) -> None:
        super().__init__()
        self.backbone = tower.backbone.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
        self.backbone.to(arithmetic(dtype, "cpu"))  # weights stay rounded to `dtype`
        # For pixels from 0 to 255. They are buffers, sent with the weights, because they differ between weight tags.
        self.register_buffer("mean", torch.tensor(tower.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(tower.std).view(1, 3, 1, 1) * 255)
        self.interpolation = tower.interpolation
        self.dtype = dtype
        self.training = False
        self._gpu_chunk: int | None = None  # measured at the first large batch
        self._of_rows: dict[int, list[torch.Tensor]] = {}  # width → shift and scale of each value of a row
        self._grid = tower.grid
        features = self(torch.zeros(1, input_size_px, input_size_px, 3, dtype=torch.uint8))
        self.feature_dim = features.shape[1]
        self.grid_size: tuple[int, int] = (features.shape[2], features.shape[3])
        if compiled:  # compiles at the first batch; dynamic, because the last chunk of a batch is smaller
            self._grid = torch.compile(tower.grid, dynamic=True)

    @property
    def input_dtype(self) -> torch.dtype:
        """Format of the arithmetic on the model's device, and of normalised pixels."""
        return arithmetic(self.dtype, self.mean.device.type)

    @torch.no_grad()
    def forward(self, frames: torch.Tensor, reduce: Reduce = lambda grids: grids) -> torch.Tensor:
        """Compute grids: RGB frames uint8[N, H, W, 3] → [N, D, h, w] in the format of the arithmetic.

        Args:
            frames: Floats are taken as the output of `normalise`, in `input_dtype`.
            reduce: Applied to the grids of each chunk, before the chunks are joined: [n, D, h, w] → [n, …].
        """
        chunks = frames.split(self._frames_at_once(frames))
        if len(chunks) == 1:
            return reduce(self.encode(frames))
        return torch.cat([reduce(self.encode(chunk)) for chunk in chunks])

    def _frames_at_once(self, frames: torch.Tensor) -> int:
        if frames.device.type == "cpu":
            return max(1, CPU_CHUNK_PX // (frames.shape[1] * frames.shape[2]))
        if len(frames) <= GPU_CHUNKS[0]:
            return GPU_CHUNKS[0]
        if self._gpu_chunk is None:
            self._gpu_chunk = choose_chunk(self.encode, frames)
        return self._gpu_chunk

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute the grids of all frames at once, without chunks."""
        normalised = frames if frames.is_floating_point() else self.normalise(frames).to(self.input_dtype)
        return self._grid(normalised.movedim(-1, 1))  # NHWC in memory is channels-last already: no copy

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalise RGB pixels from 0 to 255: uint8 or float32[N, H, W, 3] → float32[N, H, W, 3].

        Pixels in float32 are overwritten.
        """
        width = frames.shape[-2]
        if width not in self._of_rows:
            self._of_rows[width] = [each.flatten().repeat(width) for each in (-self.mean / self.std, 1 / self.std)]
        shift, scale = self._of_rows[width]
        rows = frames.flatten(-2).to(torch.float32)  # torch is fast on long contiguous rows
        torch.addcmul(shift, rows, scale, out=rows)
        return rows.unflatten(-1, (width, 3))

    def _apply(self, fn: Any, recurse: bool = True) -> IFM:
        """Handle `to(device)` and similar calls: choose the arithmetic's format for the new device."""
        super()._apply(fn, recurse)
        self.backbone.to(self.input_dtype)
        self._gpu_chunk = None
        self._of_rows = {}
        return self

    def train(self, mode: bool = True) -> IFM:
        """Do nothing: the model stays in eval mode, so that batch norm and dropout never change."""
        return self

    def hash_weights(self) -> str:
        """Return the SHA-256 of all parameters and buffers (names, shapes, bytes) in `dtype`, equal on any device."""
        digest = hashlib.sha256()
        for name, held in sorted(self.state_dict().items()):
            is_weight = name.startswith("backbone.") and held.is_floating_point()
            tensor = held.to(self.dtype) if is_weight else held
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def build_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """Build the image model and load its weights.

    Raises:
        ConfigError: The name or the layer is unknown, or the weights do not exist or do not fit.
    """
    return _build(config, input_size_px, config.weights)


@functools.lru_cache(maxsize=1)
def kept_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """Return a cached image model, for many short runs in one process. Sharing is safe, because it is frozen."""
    return build_ifm(config, input_size_px)


def empty_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """Build the image model without weights, for a state dict from another process. Needs no file and no network."""
    return _build(config, input_size_px, "none")


def _build(config: IFMConfig, input_size_px: int, weights: str) -> IFM:
    compilers = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if config.compile and not torch.cuda.is_available() and not any(map(shutil.which, compilers)):
        problem = "model.ifm.compile: torch.compile needs a C++ compiler; run apt-get install g++, or set it to false"
        raise ConfigError([problem])
    library, _, name = config.name.partition(":")
    build = {"timm": build_timm, "open_clip": build_open_clip}[library]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(0)  # random weights are the same in every process
            warnings.simplefilter("ignore")
            tower = build(name, weights, input_size_px, config.layer)
        return IFM(tower, DTYPES[config.precision], input_size_px, compiled=config.compile)
    except (
        ArithmeticError,
        AssertionError,
        RuntimeError,
        ValueError,
    ) as error:  # the size is smaller than a patch, or no multiple of it
        problem = f"augment.crop_size_px: {config.name} does not support {input_size_px} px: {one_line(error)}"
        raise ConfigError([problem]) from None
