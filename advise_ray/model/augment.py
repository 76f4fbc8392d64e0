"""Applies augmentation to a batch on its device. `advise_ray.video.augment_draws` draws the parameters."""

from __future__ import annotations

from collections.abc import Callable

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
Normalise = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def apply(
    frames: torch.Tensor, draws: NDArray[np.float32], crop_size_px: int, interpolation: str, normalise: Normalise
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
    every_frame, rows = frames.flatten(0, 1), np.repeat(draws, frames.shape[1], axis=0)
    shape, device = (crop_size_px, crop_size_px, 3), frames.device
    out = torch.empty(len(rows), *shape, dtype=normalise(torch.zeros(1, 1, 1, 3, device=device)).dtype, device=device)
    at_once = min(len(rows), max(1, CHUNK_PX[device.type] // crop_size_px**2))
    parts = iter(_parts(rows, at_once, same_draw=device.type == "cpu"))

    def work() -> None:
        memory = torch.empty(2, at_once, crop_size_px, crop_size_px * 3, device=device)
        for part in parts:  # several threads share the iterator
            drawn, (pixels, scratch) = rows[part], memory[:, : part.stop - part.start]
            images = crop(every_frame[part], drawn[:, :4].astype(np.int64), crop_size_px, interpolation)
            images = rand_augment(_flip(images, drawn[:, 4]), drawn[:, 10:])
            pixels.view(images.shape).copy_(images)
            _recolour(pixels, drawn[:, 5:10], scratch)
            out[part] = normalise(pixels.view(images.shape))

    if device.type == "cpu":
        in_threads(work)
    else:
        work()
    return out.unflatten(0, frames.shape[:2])


def _parts(rows: NDArray[np.float32], at_once: int, *, same_draw: bool) -> list[slice]:
    """Divide frames into parts of up to `at_once` neighbours. `same_draw`: only frames that have drawn the same."""
    changes = (np.flatnonzero(np.any(rows[1:] != rows[:-1], axis=1)) + 1).tolist() if same_draw else []
    return [
        slice(first, min(first + at_once, end))
        for start, end in zip([0, *changes], [*changes, len(rows)], strict=True)
        for first in range(start, end, at_once)
    ]


def _flip(images: torch.Tensor, flips: NDArray[np.float32]) -> torch.Tensor:
    """Mirror the images uint8[N, H, W, 3] whose flip is 1."""
    if flips.all():
        return images.flip(2)
    if flips.any():
        places = to_device(np.flatnonzero(flips), images.device)
        return images.index_copy(0, places, images.index_select(0, places).flip(2))
    return images


def _recolour(pixels: torch.Tensor, rows: NDArray[np.float32], scratch: torch.Tensor) -> None:
    """Change pixels float32[N, H, W × 3] in place. Operations that no frame has drawn are skipped.

    Args:
        rows: brightness, contrast, saturation, hue and grey of each frame, float32[N, 5].
        scratch: Memory of the shape of `pixels`.
    """
    drawn, over = (rows != UNCHANGED).any(axis=0), rows.max(axis=0) > 1
    if not drawn.any():
        return
    brightness, contrast, saturation, hue, grey = to_device(rows, pixels.device).T[..., None, None].unbind()
    if drawn[0]:
        colours.brightness_(pixels, brightness, over=bool(over[0]))
    if drawn[1]:
        colours.contrast_(pixels, contrast, scratch, over=bool(over[1]))
    if drawn[2]:
        colours.saturation_(pixels, saturation, scratch, over=bool(over[2]))
    if drawn[3]:
        colours.hue_(pixels, hue, scratch)
    if drawn[4]:
        colours.saturation_(pixels, 1 - grey, scratch, over=False)
