"""Checks that a run can read its clips from a cache: the same features, for all of its videos and rates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advise_ray.cache.identity import Identity
from advise_ray.cache.store import FeatureStore, read_rejects
from advise_ray.config import Config, flatten, played_clip
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import AdViSe
from advise_ray.model.sfu import output_shape
from advise_ray.video.manifest import Videos
from advise_ray.video.sampling import strides_frames

COMPARED = (
    "model.ifm.name",
    "model.ifm.layer",
    "model.ifm.precision",
    "augment.resize_height_px",
    "augment.resize_width_px",
    "augment.crop_size_px",
)
"""Keys that the features depend on, in addition to the weights and the size after the SFU."""


def identify(config: Config, model: AdViSe, ifm_sha256: str, *, frame_step: int, views: int) -> Identity:
    """The identity of the cache that a configuration would create."""
    channels, grid = output_shape(config.model.sfu, model.ifm.feature_dim, model.ifm.grid_size)
    keys = flatten(config)
    depends_on = {key: keys[key] for key in COMPARED}
    if views > 1:
        depends_on |= {key: value for key, value in keys.items() if key.startswith("augment.")}
    depends_on |= {"ifm_sha256": ifm_sha256, "model.sfu.spatial_size": grid[0], "model.sfu.channels": channels}
    return Identity(depends_on, channels, grid, frame_step, views)


def differences(held: Identity, config: Config, model: AdViSe, ifm_sha256: str) -> list[str]:
    """The differences between a cache and a configuration, one line for each key. The `cache` section is ignored."""
    wanted = identify(config, model, ifm_sha256, frame_step=held.frame_step, views=held.views)
    return [
        f"{key}: the cache has {held.depends_on.get(key)!r}, the recipe {value!r}"
        for key, value in wanted.depends_on.items()
        if held.depends_on.get(key) != value
    ]


def slowest_step_frames(config: Config, fps: NDArray[np.float64]) -> float:
    """Frame step of the slowest clips of videos with these frame rates, at least 1.

    A cache with a larger step would show some frames twice.
    """
    clip = played_clip(config)
    steps = strides_frames(clip, fps) * (clip.rates[0] * (1 - clip.rate_jitter))
    return float(max(1.0, steps.min(initial=np.inf))) if len(fps) else 1.0


def match(
    config: Config, model: AdViSe, ifm_sha256: str, videos: Videos, rows: NDArray[np.integer]
) -> tuple[Identity, Videos]:
    """Check that a run over `rows` of `videos` can be trained from the cache `data.features`.

    The rejects of the cache are videos that cannot be decoded. The run treats them as failed videos too.

    Returns:
        The cache's identity, and the videos with their `pieces`.

    Raises:
        ConfigError: the recipe would compute other features, or would show frames twice with the cache's frame step.
        UsageError: there is no cache, or it lacks videos.
    """
    location = str(config.data.features)
    store = FeatureStore(location)
    problems = differences(store.identity, config, model, ifm_sha256)
    step = store.identity.frame_step
    slowest = slowest_step_frames(config, np.asarray(videos.table.column("fps"))[rows])
    if slowest < step:
        problems.append(
            f"data.clip: the slowest clips have a frame step of {slowest:g}, but the cache has {step}: some frames "
            "would be shown twice, which reveals the rate; use a larger frame_stride, or a cache with a smaller "
            "cache.frame_step"
        )
    if problems:
        remedy = "create one that fits: `advise-ray cache` with this recipe and another --out"
        raise ConfigError([*problems, f"data.features: {location} does not fit the recipe; {remedy}"])
    rejects = read_rejects(location)
    lacking = (videos[row] for row in rows[~store.has(videos)[rows]].tolist())
    missing = [video.video_id for video in lacking if video.alone().video_id not in rejects]
    if missing:
        raise UsageError(
            f"data.features: {location} lacks {len(missing)} of {len(rows)} videos, such as {missing[0]}, or has "
            "an older version of them; run its `advise-ray cache` command again, which adds them"
        )
    return store.identity, store.pieces.located(videos)
