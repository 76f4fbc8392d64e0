"""The feature caches that the trials of a sweep share: one for each image model and setting of the SFU's fixed part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from advise_ray.cache.compatibility import COMPARED
from advise_ray.cache.store import FeatureStore, read_rejects
from advise_ray.cache.writer import CacheJob
from advise_ray.config import Config, flatten
from advise_ray.errors import ConfigError
from advise_ray.storage.remote import is_url
from advise_ray.video.manifest import Video, videos
from advise_ray.video.pool import read_videos

FEATURE_KEYS = ("model.ifm.", "model.sfu.", "model.kind", "data.manifest", "cache.", "augment.", "train.num_workers")
"""Searched keys that decide which features there are, and whether there can be any."""
DEPENDS_ON = (*COMPARED, "model.ifm.weights", "model.sfu.spatial_size", "model.sfu.channels", "data.manifest", "cache.")


def takes_features(config: Config) -> bool:
    """Whether trials of this configuration are trained from a cache that the sweep makes: not pixels, nor another."""
    return config.model.kind == "advise" and config.data.features is None


def folder_of(config: Config, sweep_dir: Path) -> Path:
    """Where the features of a configuration are; named by what they depend on."""
    prefixes = (*DEPENDS_ON, "augment.") if config.cache.views > 1 else DEPENDS_ON
    keys = {key: value for key, value in flatten(config).items() if key.startswith(prefixes)}
    return sweep_dir / "features" / hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]


def make_features(configs: Iterable[Config], sweep_dir: Path, on_event: Callable[[str], None]) -> None:
    """Make each cache that the configurations need and that is not whole yet.

    Args:
        on_event: called with a line for people before and after each.

    Raises:
        UsageError, ConfigError, CacheError: see `cache.writer.CacheJob`.
    """
    wanted = {folder_of(config, sweep_dir): config for config in configs if takes_features(config)}
    for number, (folder, config) in enumerate(wanted.items(), 1):
        job = CacheJob(config, str(folder))
        planned = job.summary()
        if planned["videos_to_encode"]:
            size = f"{planned['videos_to_encode']} videos, {planned['bytes'] / 1e6:.0f} MB"
            on_event(f"features {number} of {len(wanted)}: {size} …")
        made = job.run()
        if made["encoded"]:
            on_event(f"features {number} of {len(wanted)}: made in {made['wall_s']:.0f} s")


def refuse_unfit(configs: Iterable[Config]) -> None:
    """Raise what keeps trials from being trained within one process, which takes all clips from a local cache.

    Raises:
        ConfigError, UsageError: every such problem, a manifest that is not there, or a cache that lacks its videos.
    """
    problems, covered = set[str](), set[tuple[tuple[Path, ...], str]]()
    for config in configs:
        features, manifests = config.data.features, config.data.manifests
        if config.model.kind != "advise":
            problems.add(f"model.kind: {config.model.kind} learns from pixels; trials learn from features")
        if config.train.num_workers != 1:
            problems.add(f"train.num_workers: {config.train.num_workers}, and a trial has one; it runs beside others")
        if features is not None and is_url(features):
            problems.add("data.features: trials map theirs; name a local cache, or none: the sweep makes its own")
        elif (manifests, str(features)) not in covered:
            covered.add((manifests, str(features)))
            every = videos(read_videos(config.data))
            if features is not None:
                problems |= _lacking(features, every)
    if problems:
        raise ConfigError(sorted(problems))


def _lacking(features: str, every: list[Video]) -> set[str]:
    store, rejects = FeatureStore(features), read_rejects(features)
    missing = [video.video_id for video in every if not store.has(video) and video.alone().video_id not in rejects]
    if not missing:
        return set()
    return {f"data.features: {features} lacks {len(missing)} of {len(every)} videos, such as {missing[0]}"}
