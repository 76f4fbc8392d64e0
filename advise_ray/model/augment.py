"""Applies augmentation to a batch on its device. `advise_ray.video.augment_draws` draws the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.model import colours
from advise_ray.model.crops import crop
from advise_ray.model.plain_threads import in_threads
from advise_ray.model.rand_augment import rand_augment
from advise_ray.model.transfer import to_device

CHUNK_PX = {"cpu": 2**19, "cuda": 2**22}
"""Pixels of the crops that are computed at once. On a CPU they stay in its caches; on a GPU they limit its memory."""
UNCHANGED = np.asarray([1, 1, 1, 0, 0], dtype=np.float32)
"""Brightness, contrast, saturation, hue and grey of a clip whose colours stay."""


class ImageModel(Protocol):
    """What augmentation needs of an image model, see `advise_ray.model.ifm.IFM`."""

    @property
    def interpolation(self) -> str:
        """Interpolation that resizes crops."""

    @property
    def input_dtype(self) -> torch.dtype:
        """Format of normalised pixels."""

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalise pixels from 0 to 255: uint8 or float32[N, H, W, 3] → float32[N, H, W, 3]. It may overwrite them."""


@torch.no_grad()
def apply(frames: torch.Tensor, draws: NDArray[np.float32], crop_size_px: int, ifm: ImageModel) -> torch.Tensor:
    """Crop, resize, flip, recolour and normalise clips. All frames of a clip get the same parameters.

    Args:
        frames: uint8[B, T, H, W, 3].
        draws: Parameters float32[B, D], see `advise_ray.video.augment_draws.draw`.
        crop_size_px: Height and width of the result.
        ifm: The image model that gets the result.

    Returns:
        [B, T, crop, crop, 3] in `ifm.input_dtype`.
    """
    every_frame, rows = frames.flatten(0, 1), np.repeat(draws, frames.shape[1], axis=0)
    device = frames.device
    same_draw = device.type == "cpu"  # its parts have one row of draws; those of a GPU have one for each frame
    out = torch.empty(len(rows), crop_size_px, crop_size_px, 3, dtype=ifm.input_dtype, device=device)
    at_once = min(len(rows), max(1, CHUNK_PX[device.type] // crop_size_px**2))
    parts = iter(_parts(rows, at_once, same_draw=same_draw))

    def work() -> None:
        for part in parts:  # several threads share the iterator
            drawn = rows[part.start : part.start + 1] if same_draw else rows[part]
            out[part] = apply_to_frames(every_frame[part], drawn, crop_size_px, ifm)

    if device.type == "cpu":
        in_threads(work)
    else:
        work()
    return out.unflatten(0, frames.shape[:2])


def apply_to_frames(
    frames: torch.Tensor, rows: NDArray[np.float32], crop_size_px: int, ifm: ImageModel
) -> torch.Tensor:
    """Do what `apply` does, with frames uint8[N, H, W, 3], and a row of parameters for each frame or one for all.

    Returns:
        float32[N, crop, crop, 3].
    """
    images = crop(frames, rows[:, :4].astype(np.int64), crop_size_px, ifm.interpolation)
    images = rand_augment(_flip(images, rows[:, 4]), rows[:, 10:])
    return ifm.normalise(_recolour(images, rows[:, 5:10]))


def _parts(rows: NDArray[np.float32], at_once: int, *, same_draw: bool) -> list[slice]:
    """Divide frames into parts of up to `at_once` neighbours. `same_draw`: only frames that have drawn the same."""
    changes = (np.flatnonzero(np.any(rows[1:] != rows[:-1], axis=1)) + 1).tolist() if same_draw else []
    return [
        slice(first, min(first + at_once, end))
        for start, end in zip([0, *changes], [*changes, len(rows)], strict=True)
        for first in range(start, end, at_once)
    ]


def _flip(images: torch.Tensor, flips: NDArray[np.float32]) -> torch.Tensor:
    """Mirror the images uint8[N, H, W, 3] whose flip is 1, or all by one flip."""
    if not flips.any():
        return images
    if flips.all():
        return images.flip(2)
    places = to_device(np.flatnonzero(flips), images.device)
    return images.index_copy(0, places, images.index_select(0, places).flip(2))


def _recolour(images: torch.Tensor, rows: NDArray[np.float32]) -> torch.Tensor:
    """Change the colours of images uint8[N, H, W, 3]. Operations that no image has drawn are skipped.

    Args:
        rows: brightness, contrast, saturation, hue and grey of each image, float32[N, 5], or of all, float32[1, 5].

    Returns:
        The images, if no colour changes, or else their pixels, float32[N, H, W, 3].
    """
    drawn, over = (rows != UNCHANGED).any(axis=0), rows.max(axis=0) > 1
    if not drawn.any():
        return images
    pixels = colours.split_channels(images.to(torch.float32, memory_format=torch.contiguous_format))
    factors: Sequence[colours.Factor] = rows[0].tolist()
    if len(rows) > 1:
        factors = to_device(rows, images.device).T[..., None, None].unbind()
    brightness, contrast, saturation, hue, grey = factors
    if drawn[0]:
        colours.brightness_(pixels, brightness, over=bool(over[0]))
    if drawn[1]:
        colours.contrast_(pixels, contrast, over=bool(over[1]))
    if drawn[2]:
        colours.saturation_(pixels, saturation, over=bool(over[2]))
    if drawn[3]:
        colours.hue_(pixels, hue)
    if drawn[4]:
        colours.saturation_(pixels, 1 - grey, over=False)
    return colours.join_channels(pixels).view(images.shape)
