"""Augmentation as numbers: drawn once a clip where it is decoded; `advise_ray.model.augment` applies it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
