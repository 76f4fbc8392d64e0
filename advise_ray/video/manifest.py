"""The manifest: a Parquet file with one row per video. Training knows a data set only through its manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage.remote import is_url

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("split", pa.string()),
        ("official_splits", pa.list_(pa.string())),
        ("group", pa.string()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("num_frames", pa.int64()),
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("duration_s", pa.float64()),
        ("codec", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("decoder", pa.string()),
        ("stream_index", pa.int64()),
        ("rotation_deg", pa.int64()),
        ("damage", pa.string()),
    ]
)
"""Columns of a manifest.

- `decoder`: the decoder that reads the file correctly (decord or pyav).
- `start_frame`, `end_frame`: only the frames from `start_frame` to the frame before `end_frame` belong to the label.
- `official_splits`: train, test, … in each official split of a benchmark, in their order; `split` is the chosen one.
- `group`: videos of one group (a recording, a person) are held out together; if unset, see `groups`.
- `modified_ns`: when the file was last written, in nanoseconds since 1970.
- `damage`: what a damaged file has lost; its readable part is `start_frame` to the frame before `end_frame`."""

MAY_BE_NULL = (
    "label",
    "class_name",
    "split",
    "official_splits",
    "group",
    "start_frame",
    "end_frame",
    "bytes",
    "modified_ns",
    "damage",
)
"""Columns that may be empty or missing."""

REJECTS_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("readable_s", pa.float64()),
    ]
)
"""Columns of `rejects.parquet`: the videos that cannot be read, and the reasons.

- `bytes`, `modified_ns`: size and time of the file, to detect changes; null if the failure may be temporary (a timeout,
  a server that did not answer), so that the file is read again.
- `detail`: the message of the library.
- `readable_s`: readable seconds of a damaged video."""


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
    def decoding(self) -> dict[str, Any]:
        """Keyword arguments for `DecodeProcess`, except the path, the frames and their size."""
        how = {name: getattr(self, name) for name in ("decoder", "stream_index", "rotation_deg")}
        return {**how, "name": self.video_id}

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


def write_manifest(rows: list[dict[str, object]], path: Path) -> None:
    """Write rows with the columns of `SCHEMA` atomically."""
    _write(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def write_rejects(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows with the columns of `REJECTS_SCHEMA` atomically."""
    _write(pa.Table.from_pylist(list(rows), schema=REJECTS_SCHEMA), path)


def read_rejects(path: Path) -> dict[str, str]:
    """Return a mapping of video_id to reason; it is empty if the file does not exist."""
    table = pq.read_table(path) if path.exists() else REJECTS_SCHEMA.empty_table()
    return dict(zip(table.column("video_id").to_pylist(), table.column("reason").to_pylist(), strict=True))


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial)
    partial.replace(path)


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
