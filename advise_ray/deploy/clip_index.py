"""Reads the Parquet file of `embed` for searches: which clips it has, and their embeddings block by block."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray.deploy.embeddings_file import MADE_BY, MADE_FROM, SCHEMA, Settings, Sources
from advise_ray.errors import UsageError

BLOCK_ROWS = 16384
"""Rows that are read at once. It limits the memory use."""
MOST_FLOAT32_ROWS = 50_000
"""Maximum number of embeddings that are kept as float32; more are kept as float16, in half of the memory."""
AGAIN = "write the file again with `advise-ray embed`"


@dataclass(frozen=True)
class ClipIndex:
    """The clips of an embeddings file, in its order. The embeddings themselves stay in the file.

    Attributes:
        settings: what made the embeddings.
        sources: where the model and the videos were; None for files of older versions.
        video_ids: ids of the videos that have clips.
        versions: version of each of these videos, see `embeddings_file.version_of`.
        video: int32[n], the video of each clip, as a place in `video_ids`.
        start_s, end_s: float64[n], where each clip starts and ends in its video's file.
        failed: ids of the videos without clips, with the reasons.
    """

    path: Path
    settings: Settings
    sources: Sources | None
    video_ids: list[str]
    versions: list[str | None]
    video: NDArray[np.int32]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    failed: dict[str, str]

    def __len__(self) -> int:
        return len(self.video)

    def name(self, row: int) -> str:
        """The clip in words, such as `a.mp4, 2–4 s`."""
        return f"{self.video_ids[self.video[row]]}, {self.start_s[row]:.4g}–{self.end_s[row]:.4g} s"

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield all embeddings, normalised to length 1: the rows of a block, and float32[B, E].

        Raises:
            UsageError: the file is damaged.
        """
        done, dim = 0, None
        with _reading(self.path):
            file = pq.ParquetFile(self.path, pre_buffer=False)  # which would keep what was read until the end
            for batch in file.iter_batches(BLOCK_ROWS, columns=["embedding", "error"]):
                column = batch.filter(batch.column("error").is_null()).column("embedding")
                if not len(column):
                    continue
                rows = slice(done, done + len(column))
                lengths = column.value_lengths().fill_null(0).to_numpy()
                dim = dim or int(lengths[0])
                self._refuse_damaged(rows, lengths != dim, f"does not have {dim} numbers")
                vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), dim)
                norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
                self._refuse_damaged(rows, ~np.isfinite(norms), "has numbers that are not finite")
                yield rows, (vectors / np.maximum(norms, 1e-12)[:, None]).astype(np.float32, copy=False)
                done = rows.stop

    def read(self, rows: NDArray[np.int64] | None = None) -> Clips:
        """Read the embeddings of some rows in ascending order, or of all, into memory.

        Raises:
            UsageError: the file is damaged, or the memory is too small.
        """
        rows = np.arange(len(self)) if rows is None else rows
        kind = np.float32 if len(rows) <= MOST_FLOAT32_ROWS else np.float16
        vectors: NDArray[Any] = np.empty((0, 0), kind)
        for block, unit in self.blocks():
            if not vectors.size:
                self._refuse_too_many(len(rows) * unit.shape[1] * vectors.itemsize)
                vectors = np.empty((len(rows), unit.shape[1]), kind)
            first, last = np.searchsorted(rows, (block.start, block.stop))
            vectors[first:last] = unit[rows[first:last] - block.start]
        return Clips(self, rows, vectors)

    def _refuse_damaged(self, rows: slice, is_bad: NDArray[np.bool_], what: str) -> None:
        if is_bad.any():
            bad = self.name(rows.start + int(is_bad.argmax()))
            raise UsageError(f"EMBEDDINGS: {self.path} is damaged: the embedding of {bad}, {what}; {AGAIN}")

    def _refuse_too_many(self, num_bytes: int) -> None:
        free_bytes = psutil.virtual_memory().available
        if num_bytes > free_bytes / 2:
            needs = f"{num_bytes / 1e9:.1f} GB of embeddings need twice as much free memory"
            raise UsageError(f"EMBEDDINGS: {self.path}: {needs}, and {free_bytes / 1e9:.1f} GB are free")


@dataclass(frozen=True)
class Clips:
    """Embeddings in memory.

    Attributes:
        rows: int64[m], their rows in the index.
        vectors: float32 or float16 [m, E], of length 1.
    """

    index: ClipIndex
    rows: NDArray[np.int64]
    vectors: NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def overlap(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Places (i, j) where the clips `first[i]` and `second[j]` are of one video and have seconds in common."""
        index, a, b = self.index, self.rows[first], self.rows[second]
        i, j = np.nonzero(index.video[a][:, None] == index.video[b])
        common = (index.start_s[a[i]] < index.end_s[b[j]]) & (index.start_s[b[j]] < index.end_s[a[i]])
        return i[common], j[common]


def read_index(path: Path) -> ClipIndex:
    """Read which clips an embeddings file has.

    Raises:
        UsageError: there is no such file, `embed` did not write it, it is damaged, or it has no clips.
    """
    if not path.is_file():
        raise UsageError(f"EMBEDDINGS: {path} does not exist; `advise-ray embed` writes such a file")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"EMBEDDINGS: {path} is not a Parquet file, or a damaged one ({reason})") from None
    metadata = schema.metadata or {}
    if MADE_BY not in metadata or schema.names != SCHEMA.names:
        raise UsageError(f"EMBEDDINGS: {path} is not a file of `advise-ray embed`")
    with _reading(path):
        table = pq.read_table(path, columns=["video_id", "clip_start_s", "clip_end_s", "error", "version"])
    failures = table.filter(table.column("error").is_valid()).select(["video_id", "error"]).to_pydict()
    failed = dict(zip(failures["video_id"], failures["error"], strict=True))
    table = table.filter(table.column("error").is_null())
    if not table.num_rows:
        why = "".join(f"; {len(failed)} videos failed, such as {name}: {failed[name]}" for name in list(failed)[:1])
        raise UsageError(f"EMBEDDINGS: {path} has no clips{why}")
    gaps = [name for name in ("video_id", "clip_start_s", "clip_end_s") if table.column(name).null_count]
    if gaps:
        raise UsageError(f"EMBEDDINGS: {path} is damaged: it has clips without {', '.join(gaps)}; {AGAIN}")
    ids = table.column("video_id").combine_chunks().dictionary_encode()
    video = ids.indices.to_numpy()
    firsts = np.unique(video, return_index=True)[1]
    return ClipIndex(
        path=path,
        settings=json.loads(metadata[MADE_BY]),
        sources=json.loads(metadata[MADE_FROM]) if MADE_FROM in metadata else None,
        video_ids=ids.dictionary.to_pylist(),
        versions=table.column("version").take(firsts).to_pylist(),
        video=video,
        start_s=table.column("clip_start_s").to_numpy(),
        end_s=table.column("clip_end_s").to_numpy(),
        failed=failed,
    )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert pyarrow's errors about damaged data."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"EMBEDDINGS: {path} is damaged ({reason}); {AGAIN}") from None
