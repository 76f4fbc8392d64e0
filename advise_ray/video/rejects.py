"""`rejects.parquet`: the videos that cannot be read, and the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import pyarrow as pa

from advise_ray.storage.atomic import exists
from advise_ray.storage.parquet import read_table, schema_of, write_table


class Reject(TypedDict):
    """A row of `rejects.parquet`.

    Attributes:
        video_id: id of the video; `FILE:LINE` for an invalid line of a list.
        path: path or URL of the video.
        reason: a short phrase.
        detail: the message of the library.
        bytes, modified_ns: size of the file, and its modification time in nanoseconds since 1970, to detect changes.
            None if the failure may be temporary (a timeout, a server that did not answer): the file is read again.
        readable_s: readable seconds of a damaged video.
    """

    video_id: str
    path: str
    reason: str
    detail: NotRequired[str | None]
    bytes: NotRequired[int | None]
    modified_ns: NotRequired[int | None]
    readable_s: NotRequired[float | None]


REJECTS_SCHEMA = schema_of(Reject)


def write_rejects(rows: Sequence[Reject], path: Path) -> None:
    """Write `rejects.parquet` as `write_whole` does."""
    write_table(pa.Table.from_pylist(list(rows), schema=REJECTS_SCHEMA), path)


def read_rejects(path: Path) -> dict[str, str]:
    """Return a mapping of video_id to reason; it is empty if the file does not exist.

    Raises:
        OSError: the folder of the file does not exist, or the file cannot be read.
    """
    table = read_table(path) if exists(path) else REJECTS_SCHEMA.empty_table()
    return dict(zip(table.column("video_id").to_pylist(), table.column("reason").to_pylist(), strict=True))
