"""Applies augmentation to a batch on its device. `advise_ray.video.augment_draws` draws the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

Operation = Callable[[torch.Tensor, float], torch.Tensor]


def apply(
    frames: torch.Tensor, draws: NDArray[np.float32], crop_size_px: int, interpolation: str = "bilinear"
) -> torch.Tensor:
    """Crop, resize, flip and recolour clips. All frames of a clip get the same parameters.

    Args:
        frames: uint8[B, T, H, W, 3].
        draws: Parameters float32[B, D], see `advise_ray.video.augment_draws.draw`.
        crop_size_px: Height and width of the result.
        interpolation: Interpolation that resizes crops; it should be the image model's.

    Returns:
        uint8[B, T, crop, crop, 3].
    """
    num_clips, num_frames, _, _, _ = frames.shape
    out = frames.new_empty(num_clips, num_frames, crop_size_px, crop_size_px, 3)
    for clip, (top, left, height, width, *rest), target in zip(frames, draws.tolist(), out, strict=True):
        rows, columns = slice(int(top), int(top + height)), slice(int(left), int(left + width))
        images = clip[:, rows, columns].movedim(-1, -3)
        if images.shape[-2:] != (crop_size_px, crop_size_px):
            images = tv.resize(images, [crop_size_px, crop_size_px], interpolation, antialias=True)
        target.copy_(_change(images, *rest).movedim(-3, -1))
    return out


def _change(
    images: torch.Tensor,
    flip: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    grey: float,
    *operations: float,
) -> torch.Tensor:
    """Change images uint8[T, 3, H, W]; the shape stays. Operations without an effect are skipped."""
    if flip:
        images = tv.horizontal_flip(images)
    for which, level in zip(operations[::2], operations[1::2], strict=True):
        operation = OPERATIONS[min(int(which * len(OPERATIONS)), len(OPERATIONS) - 1)]
        images = operation(images, level)
    if brightness != 1:
        images = tv.adjust_brightness(images, brightness)
    if contrast != 1:
        images = tv.adjust_contrast(images, contrast)
    if saturation != 1:
        images = tv.adjust_saturation(images, saturation)
    if hue != 0:
        images = tv.adjust_hue(images, hue)
    if grey:
        images = tv.rgb_to_grayscale(images, num_output_channels=3)
    return images


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
"""RandAugment's operations and their strengths, in the order in which torchvision lists them (arXiv 1909.13719)."""
