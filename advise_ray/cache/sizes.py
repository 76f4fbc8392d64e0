"""Predicts the size of a cache, and finds settings for smaller caches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advise_ray.cache.identity import Identity
from advise_ray.storage import remote

ROW_BYTES = 2_000
"""Bytes of each row in addition to the features, for Arrow and the file system. Relevant for tiny caches."""


def cache_bytes(identity: Identity, num_frames: NDArray[np.int64]) -> int:
    """Predicted bytes of the parts, accurate to a few percent, of videos with `num_frames` int64[n]."""
    frames = int(identity.num_kept(num_frames).sum())
    return frames * (identity.views * identity.frame_bytes + 8) + len(num_frames) * ROW_BYTES


def free_bytes(location: str) -> int | None:
    """Free bytes on the disk of the cache. None for an object store, which does not report it."""
    if remote.is_url(location):
        return None
    path = Path(location)
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def smaller(identity: Identity, num_frames: NDArray[np.int64], free: int, largest_step: float) -> dict[str, int]:
    """Find settings (as for `--set`) with which the cache fits into `free` bytes: the largest cache of each kind.

    Args:
        num_frames: int64[n], number of frames of each video.
        largest_step: the largest `cache.frame_step` from which the recipe can be trained.

    Returns:
        Setting → bytes of the cache.
    """
    fitting: dict[str, int] = {}
    for kind in _smaller_kinds(identity):
        for setting, other in kind:
            needed = cache_bytes(other, num_frames)
            if needed <= free and other.frame_step <= max(largest_step, identity.frame_step):
                fitting[setting] = needed
                break
    return fitting


def _smaller_kinds(identity: Identity) -> Iterator[Iterator[tuple[str, Identity]]]:
    """Yield kinds of smaller caches. Each kind yields its caches in order of decreasing size."""
    size = identity.grid[0]
    yield ((f"model.sfu.spatial_size={less}", replace(identity, grid=(less, less))) for less in range(size - 1, 0, -1))
    yield (
        (f"model.sfu.channels={identity.channels // by}", replace(identity, channels=identity.channels // by))
        for by in (2, 4, 8, 16)
        if identity.channels >= by
    )
    step = identity.frame_step
    yield ((f"cache.frame_step={step * by}", replace(identity, frame_step=step * by)) for by in (2, 4, 8))
    yield ((f"cache.views={less}", replace(identity, views=less)) for less in range(identity.views - 1, 0, -1))
    yield (
        (
            f"model.sfu.spatial_size={less} with cache.frame_step={step * 2}",
            replace(identity, grid=(less, less), frame_step=step * 2),
        )
        for less in range(size - 1, 0, -1)
    )
