"""The index of a cache (`index.parquet`), which has a row for each piece of a video; and the check of its parts."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.cache.folder import part_names
from advise_ray.cache.identity import Identity
from advise_ray.cache.part_file import DESCRIBES, SCHEMA, Part, described
from advise_ray.errors import UsageError
from advise_ray.storage import remote
from advise_ray.video.manifest import Video

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


def read_index(location: str) -> list[PieceRow]:
    """Read the index.

    Raises:
        UsageError: there is no index, because the job that creates the cache has not ended.
    """
    try:
        table = pq.read_table(pa.BufferReader(remote.read_file(remote.join(location, "index.parquet"))))
    except (OSError, pa.ArrowInvalid):
        raise UsageError(
            f"data.features: {location} has no index: it was not finished; run its `advise-ray cache` command again"
        ) from None
    rows: list[PieceRow] = table.to_pylist()
    return rows


def write_index(location: str, rows: Sequence[PieceRow]) -> None:
    table = pa.Table.from_pylist(list(rows), schema=INDEX_SCHEMA)
    remote.write(remote.join(location, "index.parquet"), lambda file: pq.write_table(table, file))


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


def finished_pieces(location: str) -> list[PieceRow]:
    """The pieces of a cache, unchecked. Without an index (its job runs or was killed) they come from the parts."""
    try:
        return read_index(location)
    except UsageError:
        rows: list[PieceRow] = []
        for name in part_names(location):
            with contextlib.suppress(*DAMAGED), contextlib.closing(Part(location, name)) as part:
                rows += list(rows_of(part))
        return rows


def check_parts(location: str, identity: Identity) -> tuple[list[PieceRow], list[str]]:
    """Check all parts and delete damaged ones. Returns the intact pieces and the names of the damaged parts."""
    rows, damaged = [], []
    for name in part_names(location):
        try:
            rows += _checked_rows(location, name, identity)
        except DAMAGED as error:
            log.warning("%s is damaged (%s); its videos are encoded again", name, error)
            damaged.append(name)
            remote.delete(remote.join(location, name))
    return rows, damaged


def _checked_rows(location: str, name: str, identity: Identity) -> list[PieceRow]:
    """The rows of the index for a part whose check sums are right."""
    with contextlib.closing(Part(location, name)) as part:
        rows = list(rows_of(part))
        for row in rows:
            part.features(row["row"], identity.views, identity.frame_shape, crc32=row["crc32"])
    return rows


class Pieces:
    """The pieces of an index, by video (as described when it was cached) and by first frame.

    A piece that is in two parts counts once: if a job stops within a video, the next job encodes the whole video again,
    and the earlier parts stay.
    """

    def __init__(self, rows: Iterable[PieceRow]) -> None:
        self._rows: dict[tuple[Any, ...], dict[int, PieceRow]] = defaultdict(dict)
        for row in rows:
            self._rows[itemgetter(*DESCRIBES)(row)][row["first_frame"]] = row

    def of(self, video: Video) -> dict[int, PieceRow]:
        """First frame → row of the pieces of a video. Empty if the video has changed since it was cached."""
        return self._rows.get(described(video), {})

    def complete(self, video: Video, identity: Identity) -> bool:
        """Whether the cache has all frames of the present version of a video that it should keep."""
        return sum(row["frames"] for row in self.of(video).values()) == len(identity.frames(video))
