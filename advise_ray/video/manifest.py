"""The manifest: a Parquet file with one row per video. Training knows a data set only through its manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage.parquet import may_be_none, schema_of, write_table
from advise_ray.storage.remote import is_url


class ManifestRow(TypedDict):
    """A row of a manifest: one video. A manifest may lack the columns that can be None.

    Attributes:
        video_id: unique id; for an indexed folder the path below it.
        path: path or URL of the file.
        label: number of the class, from 0.
        class_name: name of the class.
        split: `train`, `val`, `test`, …
        official_splits: the same in each official split of a benchmark, in their order; `split` is the chosen one.
        group: videos of one group (a recording, a person) are held out together; if None, see `groups`.
        start_frame, end_frame: only the frames from `start_frame` to the frame before `end_frame` belong to the label.
        num_frames: number of frames of the file that decode.
        fps: frames per second.
        width, height: size of the upright frame in pixels.
        duration_s: duration in seconds.
        codec: name of the codec, such as `h264`.
        bytes: size of the file.
        modified_ns: when the file was last written, in nanoseconds since 1970.
        decoder: the decoder that reads the file correctly, `decord` or `pyav`.
        stream_index: number of the video stream in the file.
        rotation_deg: counterclockwise rotation that makes the coded frame upright: 0, 90, 180 or 270.
        damage: what a damaged file has lost; its readable part is `start_frame` to the frame before `end_frame`.
    """

    video_id: str
    path: str
    label: int | None
    class_name: str | None
    split: str | None
    official_splits: list[str | None] | None
    group: str | None
    start_frame: int | None
    end_frame: int | None
    num_frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    codec: str
    bytes: int | None
    modified_ns: int | None
    decoder: str
    stream_index: int
    rotation_deg: int
    damage: str | None


SCHEMA = schema_of(ManifestRow)
MAY_BE_NULL = may_be_none(ManifestRow)
"""Columns that may be empty or missing."""


class Decoding(TypedDict):
    """The keyword arguments of `DecodeProcess.decode` that a video determines: see `ManifestRow`."""

    decoder: str
    stream_index: int
    rotation_deg: int
    name: str


@dataclass(frozen=True)
class Video:
    """The properties of a video that training needs: the columns of the manifest with the same names."""

    video_id: str
    path: str
    label: int | None
    num_frames: int
    width: int
    height: int
    fps: float
    decoder: str
    stream_index: int
    rotation_deg: int
    start_frame: int | None = None
    end_frame: int | None = None
    bytes: int | None = None
    own_id: str | None = None
    """In a pool: the video's id in its own manifest."""

    def alone(self) -> Video:
        """Return the video as it is in its own manifest, outside a pool. Feature caches use this form."""
        return self if self.own_id is None else replace(self, video_id=self.own_id, own_id=None)

    @property
    def decoding(self) -> Decoding:
        """Keyword arguments for `DecodeProcess`, except the path, the frames and their size."""
        return Decoding(
            decoder=self.decoder, stream_index=self.stream_index, rotation_deg=self.rotation_deg, name=self.video_id
        )

    def refuse_above(self, max_pixels: int) -> None:
        """Raise VideoDecodeError if the frames are larger than `data.max_pixels`."""
        if self.width * self.height > max_pixels:
            raise VideoDecodeError(self.video_id, f"{self.width}×{self.height} is more than data.max_pixels allows")

    @property
    def frames(self) -> range:
        """The frames that clips may use: the frames of the label, as far as they exist."""
        end = self.num_frames if self.end_frame is None else min(self.end_frame, self.num_frames)
        return range(self.start_frame or 0, end)


@dataclass(frozen=True)
class Splits:
    """Row numbers of a manifest, int64[n] each."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]


def write_manifest(rows: Sequence[ManifestRow], path: Path) -> None:
    """Write a manifest atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest and check that training can use it.

    Raises:
        UsageError: The file is missing, not Parquet, empty, or lacks columns or values.
    """
    make = "make one with `advise-ray data index`"
    if not path.is_file():
        raise UsageError(f"data.manifest: {path} does not exist; {make}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(
            f"data.manifest: {path} is not a Parquet file ({str(error).splitlines()[0]}); {make}"
        ) from None
    for name in MAY_BE_NULL:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UsageError(f"data.manifest: {path} lacks the columns {', '.join(missing)}; {make}")
    if not table.num_rows:
        raise UsageError(f"data.manifest: {path} has no videos")
    table = table.select(SCHEMA.names)
    try:
        table = table.cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"data.manifest: {path} has a column of the wrong type: {error}; {make}") from None
    needed = [name for name in Video.__dataclass_fields__ if name in SCHEMA.names and name not in MAY_BE_NULL]
    gaps = [name for name in needed if table.column(name).null_count]
    if gaps:
        raise UsageError(f"data.manifest: {path} has rows without {', '.join(gaps)}; {make}")
    ids = table.column("video_id")
    if pc.count_distinct(ids).as_py() < len(ids):
        raise UsageError(f"data.manifest: {path} has several videos with the same video_id; {make}")
    if frames_per_video(table).min() < 1:
        raise UsageError(
            f"data.manifest: {path} has videos without frames (num_frames, start_frame, end_frame); {make}"
        )
    return table


def frames_per_video(manifest: pa.Table) -> NDArray[np.int64]:
    """Return the number of usable frames of each video, int64[n]; see `Video.frames`."""
    num_frames = manifest.column("num_frames")
    start = pc.fill_null(manifest.column("start_frame"), 0)
    end = pc.min_element_wise(pc.coalesce(manifest.column("end_frame"), num_frames), num_frames)
    return np.asarray(pc.subtract(end, start))


def check_videos_exist(manifest: pa.Table, rows: NDArray[np.int64]) -> None:
    """Raise UsageError if none of the rows' local files exists. Single missing files fail later, when decoded."""
    paths = [path for path in manifest.column("path").take(pa.array(rows)).to_pylist() if not is_url(path)]
    if paths and not any(Path(path).is_file() for path in paths):
        raise UsageError(
            f"data.manifest: none of its videos ({len(paths)}) exists, such as {paths[0]}; if they were moved, "
            "run `advise-ray data index` again"
        )


def videos(manifest: pa.Table) -> list[Video]:
    """Return a `Video` for each row."""
    columns = [name for name in Video.__dataclass_fields__ if name in manifest.column_names]
    return [Video(**row) for row in manifest.select(columns).to_pylist()]


def split_videos(manifest: pa.Table, data: DataConfig) -> Splits:
    """Return training and validation rows by the split column.

    If `val_split` selects no videos (see also `held_out_split`), a hash of each video's group selects
    `data.val_fraction` of the training videos. All videos of a manifest without splits (a plain folder) are training
    videos.

    Raises:
        UsageError: There are no training videos.
    """
    split = np.asarray(manifest.column("split").to_pylist(), dtype=object)
    is_train = split == data.train_split
    if not any(value is not None for value in split):
        is_train[:] = True
    is_val = (split == held_out_split(manifest, data, data.val_split)) & (data.val_split is not None)
    if not is_val.any():
        is_val = is_train & np.asarray([_hash_fraction(each) < data.val_fraction for each in groups(manifest)])
    if not is_train.any():
        known = sorted({str(value) for value in split if value is not None})
        raise UsageError(
            f"data.train_split: no video has split {data.train_split!r}; the manifest has {', '.join(known) or 'none'}"
        )
    is_train &= ~is_val
    if not is_train.any():
        raise UsageError(
            f"data.val_split: all training videos ({is_val.sum()}) are held out for validation; "
            "use another split, or set data.val_fraction=0"
        )
    return Splits(np.flatnonzero(is_train), np.flatnonzero(is_val))


def held_out_split(manifest: pa.Table, data: DataConfig, wanted: str | None) -> str | None:
    """Return the wanted split. If no video has it, return `val` or `validation`, unless it is for training."""
    there = set(manifest.column("split").to_pylist())
    if wanted is None or wanted in there:
        return wanted
    return next((name for name in ("val", "validation") if name in there - {data.train_split}), wanted)


def named_classes(manifest: pa.Table) -> list[str]:
    """Return the names of the labels from 0 to the highest. The name of a label without a name is its number."""
    labels = manifest.column("label").to_pylist()
    names = [str(label) for label in range(max((label for label in labels if label is not None), default=-1) + 1)]
    for label, name in zip(labels, manifest.column("class_name").to_pylist(), strict=True):
        if label is not None and label >= 0 and name is not None:
            names[label] = name
    return names


def groups(manifest: pa.Table) -> list[str]:
    """Return the group of each video, which is held out together: its `group`, or else its `recording`."""
    named = zip(manifest.column("group").to_pylist(), manifest.column("video_id").to_pylist(), strict=True)
    return [recording(video_id) if group is None else group for group, video_id in named]


def recording(video_id: str) -> str:
    """Return the part of the id that clips of one recording share: UCF101's `…_g01_c02.avi` is clip 2 of group 1."""
    return re.sub(r"_c\d+\.\w+$", "", video_id)


def _hash_fraction(group: str) -> float:
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little") / 2**64
