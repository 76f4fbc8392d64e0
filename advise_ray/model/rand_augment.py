"""RandAugment's operations on uint8 frames (arXiv 1909.13719), with torchvision's own functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from advise_ray.model.transfer import to_device

Operation = Callable[[torch.Tensor, float], torch.Tensor]


def rand_augment(frames: torch.Tensor, draws: NDArray[np.float32]) -> torch.Tensor:
    """Apply RandAugment: each operation once for all frames that drew it with the same strength.

    Args:
        frames: uint8[N, H, W, 3].
        draws: float32[N, 2 × operations]: for each operation, its position among all (0 to 1) and its strength
            (-1 to 1).

    Returns:
        uint8[N, H, W, 3].
    """
    for which, level in zip(draws.T[::2], draws.T[1::2], strict=True):
        numbers = np.minimum((which * len(OPERATIONS)).astype(np.int64), len(OPERATIONS) - 1)
        for number, strength in sorted(set(zip(numbers.tolist(), level.tolist(), strict=True))):
            drew = (numbers == number) & (level == strength)
            operation = OPERATIONS[number]
            if drew.all():
                frames = operation(frames.movedim(-1, -3), strength).movedim(-3, -1)
            else:
                places = to_device(np.flatnonzero(drew), frames.device)
                changed = operation(frames.index_select(0, places).movedim(-1, -3), strength)
                frames = frames.index_copy(0, places, changed.movedim(-3, -1))
    return frames


def _shear(images: torch.Tensor, x: float, y: float) -> torch.Tensor:
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return tv.affine(images, 0.0, [0.0, 0.0], 1.0, angles, tv.InterpolationMode.BILINEAR, center=[0.0, 0.0])


def _shift(images: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Shift images by whole pixels; the maximum is 150 of 331 pixels, as in RandAugment."""
    most = 150 / 331
    by = [float(int(x * most * images.shape[-1])), float(int(y * most * images.shape[-2]))]
    return tv.affine(images, 0.0, by, 1.0, [0.0, 0.0], tv.InterpolationMode.BILINEAR)


OPERATIONS: tuple[Operation, ...] = (
    lambda images, _: images,
    lambda images, level: _shear(images, 0.3 * level, 0),
    lambda images, level: _shear(images, 0, 0.3 * level),
    lambda images, level: _shift(images, level, 0),
    lambda images, level: _shift(images, 0, level),
    lambda images, level: tv.rotate(images, 30 * level, tv.InterpolationMode.BILINEAR),
    lambda images, level: tv.adjust_brightness(images, 1 + 0.9 * level),
    lambda images, level: tv.adjust_saturation(images, 1 + 0.9 * level),
    lambda images, level: tv.adjust_contrast(images, 1 + 0.9 * level),
    lambda images, level: tv.adjust_sharpness(images, 1 + 0.9 * level),
    lambda images, level: tv.posterize(images, 8 - round(4 * abs(level))),
    lambda images, level: tv.solarize(images, 255 * (1 - abs(level))),
    lambda images, _: tv.autocontrast(images),
    lambda images, _: tv.equalize(images),
)
"""RandAugment's operations on uint8[N, 3, H, W] and their strengths (-1 to 1), in torchvision's order."""
