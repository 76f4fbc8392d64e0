"""Groups pieces of videos that are decoded and encoded together. Imports quickly: a task of Ray Data uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from advise_ray.cache.identity import PIECE_FRAMES, Identity
from advise_ray.config import Config
from advise_ray.video.frames import Wanted, group_of
from advise_ray.video.manifest import Video

GROUP_BYTES = 128 * 2**20
"""Maximal bytes of the decoded frames, or of the features, of one group. Each group becomes one part."""


def groups(
    config: Config, identity: Identity, videos: Sequence[Video], rows: Iterable[int], most_bytes: int
) -> Iterator[pa.Table]:
    """Yield the groups of some videos for `DecodeFrames`. A video is made when it is its turn.

    Args:
        most_bytes: see `GROUP_BYTES`.
    """
    return map(group_of, group_pieces(config, identity, videos, rows, most_bytes))


def group_pieces(
    config: Config, identity: Identity, videos: Sequence[Video], rows: Iterable[int], most_bytes: int = GROUP_BYTES
) -> Iterator[list[Wanted]]:
    """Split videos into pieces and gather the pieces into groups that fit into memory."""
    decoded_bytes = config.augment.resize_height_px * config.augment.resize_width_px * 3
    frame_bytes = max(decoded_bytes, identity.views * identity.frame_bytes)
    group: list[Wanted] = []
    in_group = 0
    for row in rows:
        video = videos[row]
        frames = np.asarray(identity.frames(video), dtype=np.int64)
        for start in range(0, len(frames), PIECE_FRAMES):
            piece = frames[start : start + PIECE_FRAMES]
            if group and (in_group + len(piece)) * frame_bytes > most_bytes:
                yield group
                group, in_group = [], 0
            group.append((int(row), video, piece))
            in_group += len(piece)
    if group:
        yield group
