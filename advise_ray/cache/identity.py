"""The settings that the features of a cache depend on. Imports quickly: decode actors and Ray's controller use it."""

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
"""Version of the file format. It is increased when older versions of this package would misread the files."""
PIECE_FRAMES = 512
"""Maximal number of cached frames of one row. Longer videos have several rows, so that each row fits into memory."""


@dataclass(frozen=True)
class Identity:
    """The content of `cache.json`.

    Attributes:
        depends_on: key → value of the settings that the features depend on. With several views all of `augment` is
            included, because the views are drawn with it. A centre crop depends only on its size.
        channels, grid: channels, and height and width, of a frame's features after the SFU.
        frame_step: the cache keeps one of this many frames.
        views: number of views of each frame. The first view is the centre crop, the others are augmented.
        format: see `FORMAT`.
    """

    depends_on: dict[str, Any]
    channels: int
    grid: tuple[int, int]
    frame_step: int
    views: int
    format: int = FORMAT

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of one cached frame: (h, w, C)."""
        return (*self.grid, self.channels)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one view of a cached frame, in float16."""
        return 2 * self.channels * self.grid[0] * self.grid[1]

    def num_kept(self, num_frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of frames that the cache keeps of videos with these numbers of frames (`frames_per_video`)."""
        return -(-num_frames // self.frame_step)

    def frames(self, video: Video) -> range:
        """The frames of a video that the cache keeps."""
        return video.frames[:: self.frame_step]


def view_draw(config: Config, video_id: str, view: int) -> NDArray[np.float32]:
    """The augmentation of a view. View 0 is the centre crop. The other views do not depend on the seed of a run."""
    if view == 0:
        return augment_draws.centre_crop(config.augment)
    return augment_draws.draw(config.augment, keyed_rng("view", video_id, view))
