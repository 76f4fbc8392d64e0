"""The manifest: a Parquet file with one row per video. Training knows a data set only through its manifest."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypedDict, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage.mapped import ROWS_AT_ONCE, mapped
from advise_ray.storage.parquet import may_be_none, schema_of, write_table
from advise_ray.video.row_keys import text_keys


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
LEAST = {"fps": 1e-3, "width": 1, "height": 1, "stream_index": 0, "start_frame": 0}
"""Column → lowest value that decoding can use."""


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
    modified_ns: int | None = field(default=None, compare=False)
    own_id: str | None = None
    """In a pool: the video's id in its own manifest."""
    pieces: list[dict[str, Any]] | None = field(default=None, compare=False, repr=False)
    """In a run from a feature cache: where the cache has the video, see `cache.piece_index.PieceRow`."""

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


class Videos(Sequence[Video]):
    """The videos of a manifest. A `Video` is made when it is asked for, and only the columns are held.

    They are held once for all processes: mapped from a file, or shared through Ray's object store of the machine.
    """

    def __init__(self, manifest: pa.Table) -> None:
        self.table = manifest.select([name for name in Video.__dataclass_fields__ if name in manifest.column_names])
        batches = self.table.to_batches()
        self._columns = [batch.columns for batch in batches]
        self._starts = list(accumulate(map(len, batches), initial=0))

    def __reduce__(self) -> tuple[type[Videos], tuple[pa.Table]]:
        return Videos, (self.table,)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, row: int) -> Video: ...

    @overload
    def __getitem__(self, row: slice) -> list[Video]: ...

    def __getitem__(self, row: int | slice) -> Video | list[Video]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        row = range(len(self))[row]  # raises IndexError
        number = bisect_right(self._starts, row) - 1
        place = row - self._starts[number]
        values = [column[place].as_py() for column in self._columns[number]]
        return Video(**dict(zip(self.table.column_names, values, strict=True)))

    def named(self, video_ids: Iterable[str]) -> dict[str, Video]:
        """Return the videos with these ids, by id."""
        is_wanted = pc.is_in(self.table.column("video_id"), pa.array(video_ids, pa.string()))
        return {video.video_id: video for video in Videos(self.table.filter(is_wanted))}

    def __iter__(self) -> Iterator[Video]:
        for batch in self.table.to_batches(max_chunksize=ROWS_AT_ONCE // 16):
            yield from (Video(**row) for row in batch.to_pylist())


def write_manifest(rows: Sequence[ManifestRow], path: Path) -> None:
    """Write a manifest atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest and check that training can use it. The table is mapped from a file, see `storage.mapped`.

    Raises:
        UsageError: The file is missing, not Parquet, empty, or lacks columns or values.
    """
    make = "make one with `advise-ray data index`"
    if not path.is_file():
        raise UsageError(f"data.manifest: {path} does not exist; {make}")
    table = mapped(SCHEMA, _batches(path, make))
    if not table.num_rows:
        raise UsageError(f"data.manifest: {path} has no videos")
    needed = [name for name in Video.__dataclass_fields__ if name in SCHEMA.names and name not in MAY_BE_NULL]
    gaps = [name for name in needed if table.column(name).null_count]
    if gaps:
        raise UsageError(f"data.manifest: {path} has rows without {', '.join(gaps)}; {make}")
    if not _are_distinct(table.column("video_id")):
        raise UsageError(f"data.manifest: {path} has several videos with the same video_id; {make}")
    if wrong := _wrong_columns(table):
        raise UsageError(f"data.manifest: {path} has rows with an impossible {', '.join(wrong)}; {make}")
    if frames_per_video(table).min() < 1:
        raise UsageError(
            f"data.manifest: {path} has videos without frames (num_frames, start_frame, end_frame); {make}"
        )
    return table


def _wrong_columns(table: pa.Table) -> list[str]:
    lowest = {name: pc.min(table.column(name)).as_py() for name in LEAST}
    wrong = [name for name, value in lowest.items() if value is not None and value < LEAST[name]]
    if any(degrees % 90 for degrees in pc.unique(table.column("rotation_deg")).to_pylist()):
        wrong.append("rotation_deg")
    if set(pc.unique(table.column("decoder")).to_pylist()) - {"decord", "pyav"}:
        wrong.append("decoder")
    return wrong


def _batches(path: Path, make: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a manifest with the columns of SCHEMA. Raises as `read_manifest`."""
    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in SCHEMA.names if name in file.schema_arrow.names]
            missing = [name for name in SCHEMA.names if name not in there and name not in MAY_BE_NULL]
            if missing:
                raise UsageError(f"data.manifest: {path} lacks the columns {', '.join(missing)}; {make}")
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=there):
                yield _typed(batch, path, make)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"data.manifest: {path} is not a Parquet file ({reason}); {make}") from None


def _typed(batch: pa.RecordBatch, path: Path, make: str) -> pa.RecordBatch:
    held = dict(zip(batch.schema.names, batch.columns, strict=True))
    try:
        columns = [held.get(each.name, pa.nulls(len(batch))).cast(each.type) for each in SCHEMA]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"data.manifest: {path} has a column of the wrong type: {error}; {make}") from None
    return pa.record_batch(columns, schema=SCHEMA)


def _are_distinct(texts: pa.ChunkedArray) -> bool:
    keys = np.sort(text_keys(texts))
    return bool((keys[1:] != keys[:-1]).all()) or pc.count_distinct(texts).as_py() == len(texts)


def frames_per_video(manifest: pa.Table) -> NDArray[np.int64]:
    """Return the number of usable frames of each video, int64[n]; see `Video.frames`."""
    num_frames = manifest.column("num_frames")
    start = pc.fill_null(manifest.column("start_frame"), 0)
    end = pc.min_element_wise(pc.coalesce(manifest.column("end_frame"), num_frames), num_frames)
    return np.asarray(pc.subtract(end, start))


def check_videos_exist(manifest: pa.Table, rows: NDArray[np.integer]) -> None:
    """Raise UsageError if none of the rows' local files exists. Single missing files fail later, when decoded."""
    wanted = np.zeros(len(manifest), dtype=bool)
    wanted[rows] = True
    num_local, first, start = 0, "", 0
    for chunk in manifest.column("path").chunks:
        paths = chunk.filter(pa.array(wanted[start : start + len(chunk)]))
        local = paths.filter(pc.invert(pc.match_substring(paths, "://")))
        if any(Path(path.as_py()).is_file() for path in local):
            return
        first = first or (local[0].as_py() if len(local) else "")
        num_local, start = num_local + len(local), start + len(chunk)
    if num_local:
        raise UsageError(
            f"data.manifest: none of its videos ({num_local}) exists, such as {first}; if they were moved, "
            "run `advise-ray data index` again"
        )
