"""Feature caches that the trials of a sweep share: one for each image model and setting of the SFU's fixed part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.compatibility import COMPARED
from advise_ray.cache.store import FeatureStore, read_rejects
from advise_ray.cache.writer import write_cache
from advise_ray.config import Config, flatten
from advise_ray.errors import ConfigError
from advise_ray.storage.remote import is_url
from advise_ray.video.manifest import Videos
from advise_ray.video.pool import read_videos

FEATURE_KEYS = ("model.ifm.", "model.sfu.", "model.kind", "data.manifest", "cache.", "augment.", "train.num_workers")
"""Prefixes of searched keys that decide which features a trial needs, and whether it can use features at all."""
DEPENDS_ON = (*COMPARED, "model.ifm.weights", "model.sfu.spatial_size", "model.sfu.channels", "data.manifest", "cache.")


def takes_features(config: Config) -> bool:
    """Whether trials train from a feature cache that the sweep makes, not from pixels or another cache."""
    return config.model.kind == "advise" and config.data.features is None


def folder_of(config: Config, sweep_dir: Path) -> Path:
    """Folder of a configuration's features. The name is a hash of the keys that the features depend on."""
    prefixes = (*DEPENDS_ON, "augment.") if config.cache.views > 1 else DEPENDS_ON
    keys = {key: value for key, value in flatten(config).items() if key.startswith(prefixes)}
    return sweep_dir / "features" / hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]


def make_features(configs: Iterable[Config], sweep_dir: Path, on_event: Callable[[str], None]) -> None:
    """Make or complete each feature cache that the configurations need.

    Args:
        on_event: called with a progress message before and after each cache.

    Raises:
        UsageError, ConfigError, CacheError: see `cache_plan.plan_cache` and `writer.write_cache`.
    """
    wanted = _wanted(configs, sweep_dir)
    for number, (folder, config) in enumerate(wanted.items(), 1):
        plan = plan_cache(config, str(folder))
        if len(plan.missing):
            size = f"{len(plan.missing)} video(s), {plan.needed_bytes / 1e6:.0f} MB"
            on_event(f"feature cache {number} of {len(wanted)}: encoding {size} …")
        made = write_cache(plan)
        if made["encoded"]:
            on_event(f"feature cache {number} of {len(wanted)}: finished in {made['wall_s']:.0f} s")


def check_features(configs: Iterable[Config], sweep_dir: Path, on_event: Callable[[str], None]) -> None:
    """Plan all feature caches. Encoding the first one can take hours, and the user must hear of problems before.

    Raises:
        UsageError, ConfigError: see `cache_plan.plan_cache`.
    """
    wanted = _wanted(configs, sweep_dir)
    if len(wanted) > 1:  # each check builds an image model
        on_event(f"checking {len(wanted)} feature caches")
    for folder, config in wanted.items():
        plan_cache(config, str(folder))


def _wanted(configs: Iterable[Config], sweep_dir: Path) -> dict[Path, Config]:
    return {folder_of(config, sweep_dir): config for config in configs if takes_features(config)}


def refuse_unfit(configs: Iterable[Config]) -> None:
    """Refuse configurations that a trial cannot train. A trial is one process that reads clips from a local cache.

    Raises:
        ConfigError, UsageError: every problem found, a missing manifest, or a feature cache that lacks videos.
    """
    problems, covered = set[str](), set[tuple[tuple[Path, ...], str]]()
    for config in configs:
        features, manifests = config.data.features, config.data.manifests
        if config.model.kind != "advise":
            problems.add(f"model.kind: {config.model.kind} trains on pixels, but trials train on cached features")
        if config.train.num_workers != 1:
            problems.add(f"train.num_workers: got {config.train.num_workers}, but a trial has exactly one worker")
        if features is not None and is_url(features):
            problems.add("data.features: trials need a local cache; give a local path, or leave it out to make a cache")
        elif (manifests, str(features)) not in covered:
            covered.add((manifests, str(features)))
            every = Videos(read_videos(config.data))
            if features is not None:
                problems |= _lacking(features, every)
    if problems:
        raise ConfigError(sorted(problems))


def _lacking(features: str, every: Videos) -> set[str]:
    store, rejects = FeatureStore(features), read_rejects(features)
    lacking = (every[row] for row in np.flatnonzero(~store.has(every)).tolist())
    missing = [video.video_id for video in lacking if video.alone().video_id not in rejects]
    if not missing:
        return set()
    return {f"data.features: {features} lacks {len(missing)} of {len(every)} videos, such as {missing[0]}"}
