"""Whether a run can take its clips from a cache: the same features, of all of its videos, at all of its rates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from advise_ray.cache.identity import Identity
from advise_ray.cache.store import FeatureStore
from advise_ray.config import Config, played_clip
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import AdViSe
from advise_ray.video import storage
from advise_ray.video.manifest import Video, read_rejects
from advise_ray.video.sampling import stride_frames


def match(config: Config, model: AdViSe, ifm_sha256: str, videos: Iterable[Video]) -> Identity:
    """The identity of the cache `data.features`, which a run over `videos` can be trained from.

    A video that the cache has among its rejects is one that cannot be decoded, and counts as such in the run too.

    Raises:
        ConfigError: the recipe would compute other features, or shows frames twice on the cache's grid.
        UsageError: there is no cache, or it lacks videos.
    """
    location = str(config.data.features)
    store = FeatureStore(location)
    problems = store.identity.differences(config, model, ifm_sha256)
    step, clip, videos = store.identity.frame_step, played_clip(config), list(videos)
    slowest = min(stride_frames(clip, video.fps) * clip.rates[0] * (1 - clip.rate_jitter) for video in videos)
    if max(slowest, 1.0) < step:
        problems.append(
            f"data.clip: the slowest clips go on by {max(slowest, 1.0):g} frames, and the cache has every {step}th: "
            "some would be shown twice, which gives the rate away; take a larger frame_stride, or a cache with a "
            "smaller cache.frame_step"
        )
    if problems:
        raise ConfigError([*problems, f"data.features: {location} does not fit the recipe; make one that does"])
    rejects = {} if storage.is_url(location) else read_rejects(Path(location) / "rejects.parquet")
    missing = [video.video_id for video in videos if not store.has(video) and video.video_id not in rejects]
    if missing:
        raise UsageError(
            f"data.features: {location} lacks {len(missing)} of {len(videos)} videos, such as {missing[0]}, or has "
            "what they were before they changed; run its `advise-ray cache` again, which adds them"
        )
    return store.identity
