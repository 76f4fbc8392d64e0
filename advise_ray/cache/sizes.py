"""How large a cache is before it is made, and what would be smaller."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from advise_ray.cache.identity import Identity
from advise_ray.storage import remote
from advise_ray.video.manifest import Video

ROW_BYTES = 2_000
"""What Arrow and the file system take beside the features, a row; of a tiny cache that is the greater part."""


def cache_bytes(identity: Identity, videos: Sequence[Video]) -> int:
    """Bytes of the parts, to within a few percent."""
    frames = sum(len(identity.frames(video)) for video in videos)
    return frames * (identity.views * identity.frame_bytes + 8) + len(videos) * ROW_BYTES


def free_bytes(location: str) -> int | None:
    """Room where the cache is to lie; None for an object store, which tells none."""
    if remote.is_url(location):
        return None
    path = Path(location)
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def smaller(identity: Identity, videos: Sequence[Video], free: int, largest_step: float) -> dict[str, int]:
    """Settings (as for `--set`) that fit into so many bytes, with theirs: the largest of each kind.

    Args:
        largest_step: no larger `cache.frame_step` can be trained from.
    """
    fitting: dict[str, int] = {}
    for kind in _ways(identity):
        for setting, other in kind:
            needed = cache_bytes(other, videos)
            if needed <= free and other.frame_step <= max(largest_step, identity.frame_step):
                fitting[setting] = needed
                break
    return fitting


def _ways(identity: Identity) -> Iterator[Iterator[tuple[str, Identity]]]:
    """Kinds of smaller caches, each from its largest on."""
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
