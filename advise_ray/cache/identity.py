"""What the features of a cache depend on, as data. Light to import: decode actors and Ray's controller read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.config import Config
from advise_ray.video import augment_draws
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import keyed_rng

FORMAT = 1
"""Of the files; raised when an older program would misread them."""
PIECE_FRAMES = 512
"""Cached frames of one row: longer videos have several, so that none has to fit into memory."""


@dataclass(frozen=True)
class Identity:
    """What `cache.json` holds.

    Attributes:
        depends_on: key → value. Where there are views, all of `augment` is among them, since it drew them; a centre
            crop depends on its size alone.
        channels, grid: of a frame's features after the SFU.
    """

    depends_on: dict[str, Any]
    channels: int
    grid: tuple[int, int]
    frame_step: int
    views: int
    format: int = FORMAT

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Of one cached frame: (h, w, C)."""
        return (*self.grid, self.channels)

    @property
    def frame_bytes(self) -> int:
        """Of one cached frame under one view, in float16."""
        return 2 * self.channels * self.grid[0] * self.grid[1]

    def frames(self, video: Video) -> range:
        """The frames of a video that are kept."""
        return video.frames[:: self.frame_step]


def view_draw(config: Config, video_id: str, view: int) -> NDArray[np.float32]:
    """A view's augmentation: the centre crop is the first; the others no seed of a run changes."""
    if view == 0:
        return augment_draws.centre_crop(config.augment)
    return augment_draws.draw(config.augment, keyed_rng("view", video_id, view))
