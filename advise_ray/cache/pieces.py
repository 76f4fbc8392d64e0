"""Finds the pieces of each video in the index of a cache, for all videos of a manifest at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from advise_ray.cache.identity import Identity
from advise_ray.cache.part_file import DESCRIBES
from advise_ray.cache.piece_index import INDEX_SCHEMA
from advise_ray.storage.mapped import mapped
from advise_ray.video.manifest import Video, Videos, frames_per_video
from advise_ray.video.row_keys import Keys, text_keys, with_numbers

LOCATION = pa.struct([INDEX_SCHEMA.field(name) for name in ("part", "part_bytes", "row", "first_frame", "crc32")])
"""The columns of the index that a video's `pieces` has."""


class Pieces:
    """The pieces of an index, by video (as described when it was cached) and by first frame.

    A piece that is in two parts counts once: if a job stops within a video, the next job encodes the whole video again,
    and the earlier parts stay.
    """

    def __init__(self, index: pa.Table) -> None:
        keys, first_frames = described_keys(index), np.asarray(index.column("first_frame"))
        order = np.lexsort((first_frames, keys))
        keys, first_frames = keys[order], first_frames[order]
        is_last = np.ones(len(order), dtype=bool)
        is_last[:-1] = (keys[1:] != keys[:-1]) | (first_frames[1:] != first_frames[:-1])
        self.index, self._order = index, order[is_last]
        self._keys, self._starts = np.unique(keys[is_last], return_index=True)
        ends = np.append(self._starts, len(self._order))[1:]
        frames = np.append(0, np.cumsum(np.asarray(index.column("frames"))[self._order]))
        # The last entry is that of a video without pieces.
        self._starts, self._counts = np.append(self._starts, 0), np.append(ends - self._starts, 0)
        self._frames = np.append(frames[ends] - frames[self._starts[:-1]], 0)

    def complete(self, videos: pa.Table, identity: Identity) -> NDArray[np.bool_]:
        """Whether the cache has all frames of the present version of each video that it should keep, bool[n]."""
        held: NDArray[np.int64] = self._frames[self._find(videos)]
        return held == identity.num_kept(frames_per_video(videos))

    def of(self, video: Video) -> list[dict[str, Any]]:
        """The pieces of a video, with the columns of LOCATION. Empty if it has changed since it was cached."""
        (batch,) = self._with_pieces(Videos(pa.Table.from_pylist([vars(video)]).drop_columns(["pieces"])).table)
        pieces: list[dict[str, Any]] = batch.column("pieces")[0].as_py()
        return pieces

    def located(self, videos: Videos) -> Videos:
        """The videos with their `pieces`."""
        schema = videos.table.schema.append(pa.field("pieces", pa.list_(LOCATION)))
        return Videos(mapped(schema, self._with_pieces(videos.table)))

    def _with_pieces(self, videos: pa.Table) -> Iterator[pa.RecordBatch]:
        found, start = self._find(videos), 0
        for batch in videos.to_batches():
            here = found[start : start + len(batch)]
            counts, starts = self._counts[here], self._starts[here]
            offsets = np.append(0, np.cumsum(counts))
            rows = self._order[np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])]
            held = self.index.select([each.name for each in LOCATION]).take(pa.array(rows, pa.int64()))
            values = held.to_struct_array().combine_chunks()
            yield batch.append_column("pieces", pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values))
            start += len(batch)

    def _find(self, videos: pa.Table) -> NDArray[np.int64]:
        """The place of each video among the cached ones, int64[n]; -1 if the cache does not have it as it is now."""
        keys = described_keys(videos)
        if not len(self._keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, place, -1)


def described_keys(table: pa.Table) -> Keys:
    """Return keys of the values by which a cache identifies videos (DESCRIBES), of a manifest or an index."""
    ids = table.column("video_id")
    if "own_id" in table.column_names:
        ids = pc.coalesce(table.column("own_id").cast(pa.string()), ids)
    return with_numbers(text_keys(ids), *(table.column(name).cast(pa.int64()) for name in DESCRIBES[1:]))
