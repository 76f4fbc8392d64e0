"""Reads a cache: its identity, its rejects, and the features of a clip's frames."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray.cache.identity import FORMAT, PIECE_FRAMES, Identity
from advise_ray.cache.part_file import Features, Part
from advise_ray.cache.piece_index import read_index
from advise_ray.cache.pieces import Pieces
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage import remote
from advise_ray.video.manifest import Video, Videos
from advise_ray.video.rejects import REJECTS_SCHEMA
from advise_ray.video.rejects import read_rejects as read_local_rejects

OPEN_PARTS = 256
"""Maximal number of files that are open, and mapped, at the same time."""


def read_identity(location: str) -> Identity:
    """Read the identity of a cache (`cache.json`).

    Raises:
        UsageError: there is no cache, or its format has another version.
    """
    try:
        held = json.loads(remote.read_file(remote.join(location, "cache.json")))
    except (OSError, ValueError):
        raise UsageError(
            f"data.features: {location} is not a feature cache (it has no cache.json); create one with "
            "`advise-ray cache`, or decode the videos (data.features=null)"
        ) from None
    try:
        if held["format"] != FORMAT:
            raise UsageError(f"data.features: {location} has format {held['format']}, not {FORMAT}; create it again")
        return Identity(**{**held, "grid": tuple(held["grid"])})
    except (KeyError, TypeError):
        raise UsageError(f"data.features: {location}/cache.json is damaged; create the cache again") from None


def write_identity(location: str, identity: Identity) -> None:
    text = json.dumps(asdict(identity), indent=2).encode()
    remote.write(remote.join(location, "cache.json"), lambda file: file.write(text))


def write_rejects(location: str, rejects: Mapping[str, str]) -> None:
    """Write `rejects.parquet`: video_id → reason why the cache lacks the video."""
    rows = [{"video_id": video_id, "reason": reason} for video_id, reason in rejects.items()]
    table = pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA)
    remote.write(remote.join(location, "rejects.parquet"), lambda file: pq.write_table(table, file))


def read_rejects(location: str) -> dict[str, str]:
    """Read the videos that cannot be decoded: video_id → reason. Empty if no job has ended yet."""
    if not remote.is_url(location):
        return read_local_rejects(Path(location) / "rejects.parquet")
    try:
        held = remote.read_file(remote.join(location, "rejects.parquet"))
    except OSError:
        if any(file.path == "rejects.parquet" for file in remote.list_files(location)):
            raise  # the file exists, but cannot be read
        return {}
    rows = pq.read_table(pa.BufferReader(held)).to_pylist()
    return {row["video_id"]: row["reason"] for row in rows}


class FeatureStore:
    """Reads a cache. Open parts stay mapped, so processes on the same machine share their memory."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.identity = read_identity(location)
        self._parts: dict[str, Part] = {}
        self._checked: set[tuple[str, int]] = set()

    @functools.cached_property
    def pieces(self) -> Pieces:
        """The pieces of all videos. Not read if the videos have their `pieces`.

        Raises:
            UsageError: see `read_index`.
        """
        return Pieces(read_index(self.location))

    def has(self, videos: Videos) -> NDArray[np.bool_]:
        """Whether the cache has the present version of each video, bool[n]; see `Pieces.complete`."""
        return self.pieces.complete(videos.table, self.identity)

    def snap(self, video: Video, frame_indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replace each frame by the last cached frame that is not after it."""
        step, start = self.identity.frame_step, video.frames.start
        return start + (frame_indices - start) // step * step

    def read_into(
        self, out: Sequence[Features], video: Video, frame_indices: NDArray[np.int64], views: Sequence[int]
    ) -> None:
        """Copy the features of K clips of a video into `out`.

        Args:
            out: K arrays float16[T, h, w, C].
            frame_indices: int64[K, T].
            views: K numbers, the view of each clip.

        Raises:
            VideoDecodeError: the cache lacks the video, or its part is damaged or missing.
        """
        positions = (frame_indices - video.frames.start) // self.identity.frame_step
        for number in np.unique(positions // PIECE_FRAMES):
            features = self._features(video, int(number))
            for clip, view, places in zip(out, views, positions, strict=True):
                here = places // PIECE_FRAMES == number
                if here.all():
                    np.take(features[view], places % PIECE_FRAMES, axis=0, out=clip)
                else:
                    clip[here] = features[view][places[here] % PIECE_FRAMES]

    def _features(self, video: Video, number: int) -> Features:
        first_frame = video.frames.start + number * PIECE_FRAMES * self.identity.frame_step
        pieces = self.pieces.of(video) if video.pieces is None else video.pieces
        row = next((piece for piece in pieces if piece["first_frame"] == first_frame), None)
        if row is None:
            raise VideoDecodeError(video.video_id, "not in the feature cache; run `advise-ray cache` again")
        key = (row["part"], row["row"])
        try:
            part = self._open(row)
            crc32 = None if key in self._checked else row["crc32"]
            features = part.features(row["row"], self.identity.views, self.identity.frame_shape, crc32=crc32)
        except (OSError, pa.ArrowInvalid) as error:
            what = " ".join(str(error).split())
            reason = f"{row['part']} of the feature cache is damaged ({what}); run `advise-ray cache` again"
            raise VideoDecodeError(video.video_id, reason, lasting=False) from None
        self._checked.add(key)
        return features

    def _open(self, row: dict[str, Any]) -> Part:
        name = row["part"]
        if name not in self._parts:
            if len(self._parts) >= OPEN_PARTS:
                self._parts.pop(next(iter(self._parts))).close()
            part = Part(self.location, name)
            if part.bytes != row["part_bytes"]:
                raise pa.ArrowInvalid(f"it has {part.bytes} bytes, not {row['part_bytes']}")
            self._parts[name] = part
        return self._parts[name]
