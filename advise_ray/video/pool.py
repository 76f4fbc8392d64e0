"""The videos of a configuration: those of one manifest, or of several that make up a pool."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advise_ray.config import DataConfig
from advise_ray.errors import ConfigError
from advise_ray.video.manifest import named_classes, read_manifest

log = logging.getLogger("advise_ray")


def read_videos(data: DataConfig) -> pa.Table:
    """The rows of `data.manifest`; of a list, one manifest after the other.

    In a pool
    - a manifest without any split is all training videos;
    - a file that several manifests name is there once, and is not trained on where one of them holds it out;
    - ids that several files have get the name of their manifest in front; a feature cache still knows them by their
      own (`own_id`);
    - classes of the same name are one class. A label without a name says nothing beside another manifest's.

    Raises:
        ConfigError: no manifest is named.
        UsageError: see `read_manifest`.
    """
    paths = data.manifests
    if not paths:
        raise ConfigError(["data.manifest: required; make one with `advise-ray data index`, or use `--videos DIR`"])
    if len(paths) == 1:
        return read_manifest(paths[0])
    tables = [_with_split(read_manifest(path), data.train_split) for path in paths]
    labels = _labels(tables)
    table = pa.concat_tables(tables)
    origin = np.repeat(np.arange(len(tables)), [len(each) for each in tables])
    table = _replace(table, "label", labels)
    splits, kept = _held_out(table, origin, data.train_split)
    table = _replace(table, "split", splits)
    own_ids = table.column("video_id")
    table = _replace(table, "video_id", _unambiguous(table, origin, kept, paths)).append_column("own_id", own_ids)
    return table.take(pa.array(kept))


def hash_manifests(data: DataConfig) -> str:
    """SHA-256 of the manifests' files, which the order of the clips depends on."""
    digest = hashlib.sha256()
    for path in data.manifests:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _with_split(table: pa.Table, train_split: str) -> pa.Table:
    column = table.column("split")
    return _replace(table, "split", [train_split] * len(table)) if column.null_count == len(table) else table


def _labels(tables: Sequence[pa.Table]) -> list[int | None]:
    """Labels over all manifests, by the classes' names; where one manifest alone has any, its own."""
    if sum(table.column("label").null_count < len(table) for table in tables) <= 1:
        return [label for table in tables for label in table.column("label").to_pylist()]
    place: dict[str, int] = {}
    for table in tables:
        named = set(table.column("class_name").to_pylist())
        for name in named_classes(table):
            if name in named:
                place.setdefault(name, len(place))
    return [
        place.get(name) if label is not None else None
        for table in tables
        for label, name in zip(table.column("label").to_pylist(), table.column("class_name").to_pylist(), strict=True)
    ]


def _held_out(table: pa.Table, origin: np.ndarray[Any, Any], train_split: str) -> tuple[list[str | None], list[int]]:
    """The split of each row, and the rows that are the first of their file (and of its part)."""
    splits, paths = table.column("split").to_pylist(), table.column("path").to_pylist()
    held_out: dict[str, dict[int, str]] = defaultdict(dict)
    for path, split, manifest in zip(paths, splits, origin.tolist(), strict=True):
        if split not in (train_split, None):
            held_out[path].setdefault(manifest, split)
    kept, moved, seen = [], 0, set()
    parts = zip(paths, table.column("start_frame").to_pylist(), table.column("end_frame").to_pylist(), strict=True)
    for row, part in enumerate(parts):
        elsewhere = [split for manifest, split in held_out.get(part[0], {}).items() if manifest != origin[row]]
        if splits[row] == train_split and elsewhere:
            splits[row], moved = elsewhere[0], moved + 1
        if part not in seen:
            kept.append(row)
            seen.add(part)
    if len(kept) < len(table):
        log.warning("note: %d videos are in several manifests, and count once", len(table) - len(kept))
    if moved:
        log.warning("note: %d videos are held out by one manifest, and not trained on though another does", moved)
    return splits, kept


def _unambiguous(
    table: pa.Table, origin: np.ndarray[Any, Any], kept: Sequence[int], paths: Sequence[Path]
) -> list[str]:
    ids = table.column("video_id").to_pylist()
    counts = Counter(ids[row] for row in kept)
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [f"{number}_{stem}" for number, stem in enumerate(stems)]
    return [
        f"{names[manifest]}:{each}" if counts[each] > 1 else each for each, manifest in zip(ids, origin, strict=True)
    ]


def _replace(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
