"""Joins several manifests into one pool, in which each file is one video."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from advise_ray.storage.mapped import ROWS_AT_ONCE, mapped
from advise_ray.video.manifest import SCHEMA
from advise_ray.video.row_keys import Keys, file_keys, text_keys, with_numbers
from advise_ray.video.splits import named_classes

log = logging.getLogger("advise_ray")
POOL_SCHEMA = SCHEMA.append(pa.field("own_id", pa.string()))
FILLED = ("label", "class_name", "official_splits", "group", "split")
"""Columns that a file takes from the first manifest that has a value."""
Rows = NDArray[np.int64]


def join(tables: Sequence[pa.Table], paths: Sequence[Path], train_split: str) -> pa.Table:
    """Join manifests as `pool.read_videos` says.

    Args:
        paths: the files of the manifests, whose names tell apart videos with the same id.
    """
    pool = pa.concat_tables(
        [_prepared(table, train_split, labels) for table, labels in zip(tables, _labels(tables), strict=True)]
    )
    manifests = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    files = file_keys(pool.column("path"))
    split_from = _hold_out(pool.column("split"), files, manifests, train_split)
    kept, sources = _merge_duplicates(pool, files, split_from)
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [f"{number}_{stem}" for number, stem in enumerate(stems)]
    return mapped(POOL_SCHEMA, _batches(pool, kept, sources, pa.array(names).take(pa.array(manifests[kept]))))


def _prepared(table: pa.Table, train_split: str, labels: pa.ChunkedArray) -> pa.Table:
    """Return the table with `own_id`, with the labels of the pool, and with a split for each video."""
    table = table.append_column("own_id", table.column("video_id"))
    table = table.set_column(SCHEMA.get_field_index("label"), SCHEMA.field("label"), labels)
    if table.column("split").null_count < len(table):
        return table
    split = pa.chunked_array([pa.repeat(train_split, len(table))], pa.string())
    return table.set_column(SCHEMA.get_field_index("split"), SCHEMA.field("split"), split)


def _labels(tables: Sequence[pa.Table]) -> list[pa.ChunkedArray]:
    """Return labels that are numbered by class name over all manifests. If only one has labels, they are unchanged."""
    labels = [table.column("label") for table in tables]
    if sum(each.null_count < len(each) for each in labels) <= 1:
        return labels
    place: dict[str, int] = {}
    for table in tables:
        named = set(pc.unique(table.column("class_name")).to_pylist())
        for name in named_classes(table):
            if name in named:
                place.setdefault(name, len(place))
    classes = pa.array(place, pa.string())
    return [
        pc.if_else(each.is_valid(), pc.cast(pc.index_in(table.column("class_name"), classes), pa.int64()), None)
        for table, each in zip(tables, labels, strict=True)
    ]


def _hold_out(split: pa.ChunkedArray, files: Keys, manifests: NDArray[np.int32], train_split: str) -> Rows:
    """Return the row from which each row takes its split: of a file that another manifest holds out, a row of that."""
    source = np.arange(len(files))
    is_held = np.asarray(pc.fill_null(pc.not_equal(split, train_split), False))
    if not is_held.any():
        return source
    held = np.flatnonzero(is_held)
    held = held[np.argsort(files[held], kind="stable")]  # by file, then in the order of the pool
    starts, counts = _runs(files[held])
    first = held[starts]
    is_other = manifests[held] != np.repeat(manifests[first], counts)
    other = _first_true(is_other, starts)  # of the first manifest that is not that of `first`
    free = np.flatnonzero(~is_held)
    place = np.minimum(np.searchsorted(files[first], files[free]), len(first) - 1)
    is_found = files[first[place]] == files[free]
    free, place = free[is_found], place[is_found]
    is_own = manifests[first[place]] == manifests[free]
    moved = ~is_own | (other[place] >= 0)
    source[free[moved]] = np.where(is_own, held[other[place]], first[place])[moved]
    if moved.any():
        log.warning("note: videos left out of training, because another manifest holds them out: %d", moved.sum())
    return source


def _merge_duplicates(pool: pa.Table, files: Keys, split_from: Rows) -> tuple[Rows, dict[str, Rows]]:
    """Return the first row of each file (or part of a file), and the rows from which it takes the columns of FILLED."""
    keys = with_numbers(files, pool.column("start_frame"), pool.column("end_frame"))
    order = np.argsort(keys, kind="stable")
    starts, _ = _runs(keys[order])
    first = order[starts]
    by_row = np.argsort(first)
    sources = {}
    for name in FILLED:
        source = split_from if name == "split" else np.arange(len(keys))
        is_valid = np.asarray(pool.column(name).is_valid())[source]
        found = _first_true(is_valid[order], starts)
        sources[name] = source[np.where(found >= 0, order[found], first)][by_row]
    if len(first) < len(keys):
        log.warning("note: duplicates of videos in several manifests, which are used once: %d", len(keys) - len(first))
    return first[by_row], sources


def _batches(pool: pa.Table, kept: Rows, sources: dict[str, Rows], names: pa.Array) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the pool. The name of its manifest is put in front of each id that several videos have."""
    keys = text_keys(pool.column("video_id"))[kept]
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    is_shared = counts[place] > 1
    for start in range(0, len(kept), ROWS_AT_ONCE):
        here = slice(start, start + ROWS_AT_ONCE)
        held = {name: pool.column(name).take(pa.array(sources.get(name, kept)[here])) for name in POOL_SCHEMA.names}
        full = pc.binary_join_element_wise(names[here], held["own_id"], ":")
        held["video_id"] = pc.if_else(pa.array(is_shared[here]), full, held["own_id"])
        yield from pa.table(held, schema=POOL_SCHEMA).combine_chunks().to_batches()


def _runs(ordered: Keys) -> tuple[Rows, Rows]:
    """Return where each run of equal keys starts, and its length."""
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return starts, np.diff(np.append(starts, len(ordered)))


def _first_true(values: NDArray[np.bool_], starts: Rows) -> Rows:
    """Return the first position in each run that is true, or -1."""
    positions = np.where(values, np.arange(len(values)), len(values))
    first = np.minimum.reduceat(positions, starts)
    return np.where(first < len(values), first, -1)
