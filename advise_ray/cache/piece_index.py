"""The index of a cache (`index.parquet`), which has a row for each piece of a video; and the check of its parts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.cache.folder import part_names
from advise_ray.cache.identity import Identity
from advise_ray.cache.part_file import DESCRIBES, SCHEMA, Part
from advise_ray.errors import UsageError
from advise_ray.storage import remote
from advise_ray.storage.mapped import ROWS_AT_ONCE, mapped

log = logging.getLogger("advise_ray")
DAMAGED = (OSError, pa.ArrowInvalid, ValueError)
INDEX_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("part_bytes", pa.int64()),
        ("row", pa.int64()),
        ("first_frame", pa.int64()),
        ("frames", pa.int64()),
        *(SCHEMA.field(name) for name in (*DESCRIBES, "crc32")),
    ]
)


class PieceRow(TypedDict):
    """A row of `index.parquet`: where the cache has a piece of a video.

    Attributes:
        part: file name of the part.
        part_bytes: size of the part.
        row: number of the piece in the part, from 0.
        first_frame: number of the piece's first frame in the video.
        frames: number of cached frames.
        video_id, num_frames, bytes, start_frame, end_frame: the video when it was cached, as in the manifest.
        crc32: check sum of the features.
    """

    part: str
    part_bytes: int
    row: int
    first_frame: int
    frames: int
    video_id: str
    num_frames: int
    bytes: int | None
    start_frame: int | None
    end_frame: int | None
    crc32: int


class Index:
    """The rows of an index that grows. They are mapped from files, see `storage.mapped`."""

    def __init__(self, rows: Iterable[PieceRow] = ()) -> None:
        self._mapped: list[pa.Table] = []
        self._added: list[PieceRow] = []
        self.add(rows)

    def add(self, rows: Iterable[PieceRow]) -> None:
        """Append rows."""
        for row in rows:
            self._added.append(row)
            if len(self._added) == ROWS_AT_ONCE:
                self._mapped.append(mapped(INDEX_SCHEMA, self._held().to_batches()))
                self._added = []

    def table(self) -> pa.Table:
        """Return the rows, with the columns of INDEX_SCHEMA."""
        return pa.concat_tables([*self._mapped, self._held()])

    def _held(self) -> pa.Table:
        return pa.Table.from_pylist(self._added, schema=INDEX_SCHEMA)


def read_index(location: str) -> pa.Table:
    """Read the index, with the columns of INDEX_SCHEMA.

    Raises:
        UsageError: there is no index, because the job that creates the cache has not ended.
    """
    return mapped(INDEX_SCHEMA, _batches(location))


def _batches(location: str) -> Iterator[pa.RecordBatch]:
    try:
        held = pa.BufferReader(remote.read_file(remote.join(location, "index.parquet")))
        yield from pq.ParquetFile(held).iter_batches(ROWS_AT_ONCE, columns=INDEX_SCHEMA.names)
    except (OSError, pa.ArrowInvalid):
        raise UsageError(
            f"data.features: {location} has no index: it was not finished; run its `advise-ray cache` command again"
        ) from None


def write_index(location: str, index: pa.Table) -> None:
    remote.write(remote.join(location, "index.parquet"), lambda file: pq.write_table(index, file))


def rows_of(part: Part) -> Iterator[PieceRow]:
    """Yield the rows of the index for a part."""
    for number in range(len(part)):
        piece = part.row(number)
        yield PieceRow(
            part=part.name,
            part_bytes=part.bytes,
            row=number,
            first_frame=piece["frame_indices"][0],
            frames=len(piece["frame_indices"]),
            video_id=piece["video_id"],
            num_frames=piece["num_frames"],
            bytes=piece["bytes"],
            start_frame=piece["start_frame"],
            end_frame=piece["end_frame"],
            crc32=piece["crc32"],
        )


def finished_pieces(location: str) -> pa.Table:
    """The pieces of a cache, unchecked. Without an index (its job runs or was killed) they come from the parts."""
    try:
        return read_index(location)
    except UsageError:
        index = Index()
        for name in part_names(location):
            with contextlib.suppress(*DAMAGED), contextlib.closing(Part(location, name)) as part:
                index.add(list(rows_of(part)))
        return index.table()


def check_parts(location: str, identity: Identity) -> tuple[Index, list[str]]:
    """Check all parts and delete damaged ones. Returns the intact pieces and the names of the damaged parts."""
    index, damaged = Index(), []
    for name in part_names(location):
        try:
            index.add(_checked_rows(location, name, identity))
        except DAMAGED as error:
            log.warning("%s is damaged (%s); its videos are encoded again", name, error)
            damaged.append(name)
            remote.delete(remote.join(location, name))
    return index, damaged


def _checked_rows(location: str, name: str, identity: Identity) -> list[PieceRow]:
    """The rows of the index for a part whose check sums are right."""
    with contextlib.closing(Part(location, name)) as part:
        rows = list(rows_of(part))
        for row in rows:
            part.features(row["row"], identity.views, identity.frame_shape, crc32=row["crc32"])
    return rows
