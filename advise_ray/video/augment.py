"""Augmentation: drawn once a clip where it is decoded, applied to the whole batch where the model is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from advise_ray.config import AugmentConfig

CENTRE_CROP = np.asarray([0.5, 0.5, 0, 1, 1, 1, 0], dtype=np.float32)
"""The draw that validation uses: the centre, unchanged."""


def draw(augment: AugmentConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one clip's augmentation.

    Returns:
        float32[7]: vertical and horizontal place of the crop (0 to 1), flip (0 or 1), factors of brightness, contrast
        and saturation, and the turn of the hue (in circles).
    """
    top, left = rng.uniform(size=2) if augment.random_crop else (0.5, 0.5)
    flip = augment.flip and rng.uniform() < 0.5
    jitter = rng.uniform() < augment.colour_jitter
    strengths = np.asarray([augment.brightness, augment.contrast, augment.saturation, augment.hue])
    colours = np.asarray([1, 1, 1, 0]) + strengths * rng.uniform(-1, 1, size=4) * jitter
    return np.asarray([top, left, flip, *colours], dtype=np.float32)


def apply(frames: torch.Tensor, draws: NDArray[np.float32], crop_size_px: int) -> torch.Tensor:
    """Crop, flip and recolour clips, on the device that holds them.

    Args:
        frames: uint8[B, T, H, W, 3].
        draws: float32[B, 7], see `draw`.

    Returns:
        uint8[B, T, crop, crop, 3].
    """
    num_clips, num_frames, height, width, _ = frames.shape
    out = frames.new_empty(num_clips, num_frames, crop_size_px, crop_size_px, 3)
    for clip, (top, left, flip, *colours), target in zip(frames, draws.tolist(), out, strict=True):
        y = round(top * (height - crop_size_px))
        x = round(left * (width - crop_size_px))
        cropped = clip[:, y : y + crop_size_px, x : x + crop_size_px]
        target.copy_(_recolour(cropped.flip(2) if flip else cropped, *colours))
    return out


def _recolour(frames: torch.Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> torch.Tensor:
    """uint8[T, H, W, 3] → the same; what would change nothing is not computed."""
    images = frames.movedim(-1, -3)
    if brightness != 1:
        images = tv.adjust_brightness(images, brightness)
    if contrast != 1:
        images = tv.adjust_contrast(images, contrast)
    if saturation != 1:
        images = tv.adjust_saturation(images, saturation)
    if hue != 0:
        images = tv.adjust_hue(images, hue)
    return images.movedim(-3, -1)
