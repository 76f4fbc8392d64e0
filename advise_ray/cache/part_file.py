"""Parts of a cache: Arrow IPC files with one record batch for each piece of a video, written atomically."""

from __future__ import annotations

import contextlib
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.storage import remote
from advise_ray.video.manifest import Video

Features = NDArray[np.float16]
SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("features", pa.large_list(pa.float16())),
        ("frame_indices", pa.list_(pa.int64())),
        ("fps", pa.float64()),
        ("label", pa.int64()),
        ("num_frames", pa.int64()),
        ("bytes", pa.int64()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("crc32", pa.int64()),
    ]
)
"""`features` is float16[views, F, h, w, C], flattened. `fps` to `end_frame` are copied from the manifest."""
DESCRIBES = ("video_id", "num_frames", "bytes", "start_frame", "end_frame")
"""Columns that identify a cached video. They do not include the path, so a copy of the file is the same video."""


@dataclass(frozen=True)
class Piece:
    """Features of up to `PIECE_FRAMES` cached frames of a video."""

    video: Video
    frame_indices: NDArray[np.int64]
    features: Features

    def batch(self) -> pa.RecordBatch:
        """Convert to a record batch of one row. The features are not copied."""
        flat = np.ascontiguousarray(self.features).ravel()
        row: dict[str, Any] = {
            **{name: [getattr(self.video, name)] for name in ("fps", "label", *DESCRIBES)},
            "frame_indices": [self.frame_indices.tolist()],
            "crc32": [_crc32(flat)],
        }
        values = pa.LargeListArray.from_arrays(pa.array([0, flat.size], pa.int64()), pa.array(flat))
        columns = [
            values if name == "features" else pa.array(row[name], SCHEMA.field(name).type) for name in SCHEMA.names
        ]
        return pa.record_batch(columns, schema=SCHEMA)


def write_part(location: str, pieces: Sequence[Piece]) -> str:
    """Write a new part and return its name.

    Raises:
        OSError: the part cannot be written (full disk?). Nothing of it remains.
    """
    name = f"part-{uuid.uuid4().hex[:16]}.arrow"

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for piece in pieces:
                writer.write_batch(piece.batch())

    remote.write(remote.join(location, name), write)
    return name


class Part:
    """An open part. A local part is mapped into memory; a remote part is read piece by piece.

    Raises:
        OSError, pa.ArrowInvalid: the part is missing or damaged.
    """

    def __init__(self, location: str, name: str) -> None:
        self.name = name
        self.file = remote.open_random(remote.join(location, name))
        self.bytes = self.file.size()
        self.reader = pa.ipc.open_file(self.file)

    def __len__(self) -> int:
        number: int = self.reader.num_record_batches
        return number

    def row(self, number: int) -> dict[str, Any]:
        """The columns of a piece, without its features."""
        row: dict[str, Any] = self.reader.get_batch(number).drop_columns(["features"]).to_pylist()[0]
        return row

    def features(self, number: int, views: int, frame_shape: tuple[int, ...], *, crc32: int | None = None) -> Features:
        """The features of a piece, float16[views, F, h, w, C]. They are not copied if the part is mapped.

        Raises:
            pa.ArrowInvalid: the features are damaged (checked if `crc32` is given).
        """
        flat = self.reader.get_batch(number).column("features").values.to_numpy()
        if crc32 is not None and _crc32(flat) != crc32:
            raise pa.ArrowInvalid("its check sum is wrong")
        features: Features = flat.reshape(views, -1, *frame_shape)
        return features

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()


def _crc32(flat: NDArray[np.float16]) -> int:
    return zlib.crc32(flat.data.cast("B"))
