"""Augmentation applied to a whole batch, on the device that holds it; `advise_ray.video.augment` draws it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv


def apply(frames: torch.Tensor, draws: NDArray[np.float32], crop_size_px: int) -> torch.Tensor:
    """Crop, flip and recolour clips, on the device that holds them.

    Args:
        frames: uint8[B, T, H, W, 3].
        draws: float32[B, 7], see `advise_ray.video.augment.draw`.

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
