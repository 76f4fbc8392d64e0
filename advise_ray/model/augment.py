"""Applies augmentation to a batch on its device. `advise_ray.video.augment_draws` draws the parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.model import colours
from advise_ray.model.crops import crop
from advise_ray.model.rand_augment import rand_augment
from advise_ray.model.transfer import to_device

CHUNK_PX = {"cpu": 2**17, "cuda": 2**22}
"""Pixels of the crops that are computed at once. On a CPU they stay in its caches; on a GPU they limit its memory."""
UNCHANGED = (1, 1, 1, 0, 0)
"""Brightness, contrast, saturation, hue and grey of a clip whose colours stay."""


@torch.no_grad()
def apply(
    frames: torch.Tensor,
    draws: NDArray[np.float32],
    crop_size_px: int,
    interpolation: str,
    normalise: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Crop, resize, flip, recolour and normalise clips. All frames of a clip get the same parameters.

    Args:
        frames: uint8[B, T, H, W, 3].
        draws: Parameters float32[B, D], see `advise_ray.video.augment_draws.draw`.
        crop_size_px: Height and width of the result.
        interpolation: Interpolation that resizes crops; it should be the image model's.
        normalise: The image model's function from pixels float32[N, H, W, 3], 0 to 255, to its input. It may overwrite
            the pixels.

    Returns:
        [B, T, crop, crop, 3] in the format of `normalise`.
    """
    num_clips, num_frames = frames.shape[:2]
    every_frame = frames.contiguous().flatten(0, 1)
    rows = np.repeat(draws, num_frames, axis=0)
    boxes, flips, colour, operations = rows[:, :4].astype(np.int64), rows[:, 4], rows[:, 5:10], rows[:, 10:]
    factors = to_device(colour, frames.device)
    at_once = max(1, CHUNK_PX[frames.device.type] // crop_size_px**2)
    of_clips = max(1, at_once // num_frames) * num_frames
    memory = torch.empty(2, at_once, crop_size_px, crop_size_px * 3, device=frames.device)
    out: torch.Tensor | None = None
    for start in range(0, len(rows), of_clips):
        clips = slice(start, start + of_clips)
        images = crop(every_frame[clips], boxes[clips], crop_size_px, interpolation)
        images = rand_augment(_flip(images, flips[clips]), operations[clips])
        for first, chunk in zip(range(start, len(rows), at_once), images.split(at_once), strict=False):
            part = slice(first, first + len(chunk))
            pixels, scratch = memory[:, : len(chunk)]
            pixels.view(chunk.shape).copy_(chunk)
            _recolour(pixels, colour[part], factors[part], scratch)
            normalised = normalise(pixels.view(chunk.shape))
            if out is None:
                out = normalised.new_empty(len(rows), *normalised.shape[1:])
            out[part] = normalised
    assert out is not None
    return out.unflatten(0, (num_clips, num_frames))


def _flip(images: torch.Tensor, flips: NDArray[np.float32]) -> torch.Tensor:
    """Mirror the images uint8[N, H, W, 3] whose flip is 1."""
    if flips.all():
        return images.flip(2)
    if flips.any():
        places = to_device(np.flatnonzero(flips), images.device)
        images.index_copy_(0, places, images.index_select(0, places).flip(2))
    return images


def _recolour(pixels: torch.Tensor, rows: NDArray[np.float32], factors: torch.Tensor, scratch: torch.Tensor) -> None:
    """Change pixels float32[N, H, W × 3] in place. Operations that no frame has drawn are skipped.

    Args:
        rows: brightness, contrast, saturation, hue and grey of each frame, float32[N, 5].
        factors: The same on the device.
        scratch: Memory of the shape of `pixels`.
    """
    drawn, over = np.not_equal(rows, UNCHANGED).any(axis=0).tolist(), (rows > 1).any(axis=0).tolist()
    brightness, contrast, saturation, hue, grey = factors.T[..., None, None].unbind()
    if drawn[0]:
        colours.brightness_(pixels, brightness, over=over[0])
    if drawn[1]:
        colours.contrast_(pixels, contrast, scratch, over=over[1])
    if drawn[2]:
        colours.saturation_(pixels, saturation, scratch, over=over[2])
    if drawn[3]:
        colours.hue_(pixels, hue, scratch)
    if drawn[4]:
        colours.saturation_(pixels, 1 - grey, scratch, over=False)
