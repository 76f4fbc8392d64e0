"""Random parameters of augmentation, drawn once per clip during decoding. `advise_ray.model.augment` applies them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from advise_ray.config import AugmentConfig

STRONGEST = 30
"""Maximum strength of RandAugment's operations (arXiv 1909.13719)."""
RATIOS = (3 / 4, 4 / 3)
"""Range of the aspect ratio (width / height) of a resized crop, as in Inception."""


def draw(augment: AugmentConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the augmentation parameters of one clip.

    Returns:
        float32[10 + 2 × rand_augment_ops]: top, left, height and width of the crop in pixels of the resized frame; flip
        (0 or 1); factors of brightness, contrast and saturation; rotation of the hue (in circles); grey (0 or 1); then,
        for each operation of RandAugment, its position among all operations (0 to 1) and its strength (-1 to 1).
    """
    top, left = rng.uniform(size=2) if augment.random_crop else (0.5, 0.5)
    flip = augment.flip and rng.uniform() < 0.5
    jitter = rng.uniform() < augment.colour_jitter
    strengths = np.asarray([augment.brightness, augment.contrast, augment.saturation, augment.hue])
    colours = np.asarray([1, 1, 1, 0]) + strengths * rng.uniform(-1, 1, size=4) * jitter
    grey = rng.uniform() < augment.grey
    operations = np.empty((augment.rand_augment_ops, 2))
    operations[:, 0] = rng.uniform(size=len(operations))
    operations[:, 1] = rng.choice([-1, 1], size=len(operations)) * augment.rand_augment_magnitude / STRONGEST
    height, width = _crop_size(augment, rng)
    return _row(augment, top, left, height, width, flip, *colours, grey, *operations.flat)


def centre_crop(augment: AugmentConfig) -> NDArray[np.float32]:
    """Return the parameters for validation: the centre crop without any change."""
    unchanged = (0, 1, 1, 1, 0, 0, *[0] * 2 * augment.rand_augment_ops)
    return _row(augment, 0.5, 0.5, augment.crop_size_px, augment.crop_size_px, *unchanged)


def centre(frames: NDArray[np.uint8], augment: AugmentConfig) -> NDArray[np.uint8]:
    """Return a view of the centre crop of resized frames, uint8[…, H, W, 3]."""
    ((top, left),) = view_crops(augment, 1)
    size_px = augment.crop_size_px
    return frames[..., top : top + size_px, left : left + size_px, :]


def view_crops(augment: AugmentConfig, num_crops: int) -> list[tuple[int, int]]:
    """Return (top, left) of square crops that are spaced along the longer side, in pixels. One crop is the centre."""
    places = [index / (num_crops - 1) for index in range(num_crops)] if num_crops > 1 else [0.5]
    spare_height = augment.resize_height_px - augment.crop_size_px
    spare_width = augment.resize_width_px - augment.crop_size_px
    if spare_width >= spare_height:
        return [(round(0.5 * spare_height), round(place * spare_width)) for place in places]
    return [(round(place * spare_height), round(0.5 * spare_width)) for place in places]


def _row(augment: AugmentConfig, top: float, left: float, height: int, width: int, *rest: float) -> NDArray[np.float32]:
    """Return the row of parameters, with the crop's position converted from 0…1 to pixels."""
    top_px = round(top * (augment.resize_height_px - height))
    left_px = round(left * (augment.resize_width_px - width))
    return np.asarray([top_px, left_px, height, width, *rest], dtype=np.float32)


def _crop_size(augment: AugmentConfig, rng: np.random.Generator) -> tuple[int, int]:
    """Return height and width of the crop; it is never larger than the frame."""
    if augment.crop_scale is None:
        return augment.crop_size_px, augment.crop_size_px
    area = augment.resize_height_px * augment.resize_width_px * rng.uniform(*augment.crop_scale)
    ratio = math.exp(rng.uniform(*np.log(RATIOS)))
    height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
    return min(max(height, 1), augment.resize_height_px), min(max(width, 1), augment.resize_width_px)
