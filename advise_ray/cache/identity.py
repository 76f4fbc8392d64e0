"""What the features of a cache depend on: a run that would compute others is refused, with what differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.config import Config, flatten
from advise_ray.model.advise import AdViSe
from advise_ray.model.sfu import output_shape
from advise_ray.video import augment
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import keyed_rng

FORMAT = 1
"""Of the files; raised when an older program would misread them."""
PIECE_FRAMES = 512
"""Cached frames of one row: longer videos have several, so that none has to fit into memory."""
COMPARED = (
    "model.ifm.name",
    "model.ifm.layer",
    "model.ifm.precision",
    "augment.resize_height_px",
    "augment.resize_width_px",
    "augment.crop_size_px",
)
"""Keys that every feature depends on, beside the weights and the size after the SFU."""


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

    def differences(self, config: Config, model: AdViSe, ifm_sha256: str) -> list[str]:
        """What a configuration would make otherwise, a line a key; its `cache` section does not count."""
        theirs = identify(config, model, ifm_sha256, frame_step=self.frame_step, views=self.views).depends_on
        return [
            f"{key}: the cache has {self.depends_on.get(key)!r}, the recipe {value!r}"
            for key, value in theirs.items()
            if self.depends_on.get(key) != value
        ]


def identify(config: Config, model: AdViSe, ifm_sha256: str, *, frame_step: int, views: int) -> Identity:
    """The identity of the cache that a configuration makes."""
    channels, grid = output_shape(config.model.sfu, model.ifm.feature_dim, model.ifm.grid_size)
    keys = flatten(config)
    depends_on = {key: keys[key] for key in COMPARED}
    if views > 1:
        depends_on |= {key: value for key, value in keys.items() if key.startswith("augment.")}
    depends_on |= {"ifm_sha256": ifm_sha256, "model.sfu.spatial_size": grid[0], "model.sfu.channels": channels}
    return Identity(depends_on, channels, grid, frame_step, views)


def view_draw(config: Config, video_id: str, view: int) -> NDArray[np.float32]:
    """A view's augmentation: the centre crop is the first; the others no seed of a run changes."""
    if view == 0:
        return augment.centre_crop(config.augment)
    return augment.draw(config.augment, keyed_rng("view", video_id, view))
