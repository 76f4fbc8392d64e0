"""The videos of a configuration: those of one manifest, or of several that make up a pool."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from advise_ray.config import DataConfig
from advise_ray.errors import ConfigError
from advise_ray.storage.remote import is_url
from advise_ray.video.manifest import SCHEMA, named_classes, read_manifest

log = logging.getLogger("advise_ray")
POOL_SCHEMA = SCHEMA.append(pa.field("own_id", pa.string()))
FILLED = ("label", "class_name", "official_splits", "group")
"""Columns that a file has from the first manifest that knows them."""
Row = dict[str, Any]


def read_videos(data: DataConfig) -> pa.Table:
    """The rows of `data.manifest`; of a list, one manifest after the other.

    In a pool
    - a manifest without any split is all training videos;
    - a file that several manifests name is there once, and is not trained on where one of them holds it out. Other
      files of its group are: a manifest knows only its own groups;
    - ids that several files have get the name of their manifest in front; a feature cache still knows them by their
      own (`own_id`);
    - classes of the same name are one class. A label without a name says nothing beside another manifest's.

    Raises:
        ConfigError: no manifest is named.
        UsageError: see `read_manifest`.
    """
    tables = read_each(data)
    if len(tables) == 1:
        return tables[0]
    labels = _labels(tables)
    rows: list[Row] = []
    for number, table in enumerate(tables):
        has_splits = table.column("split").null_count < len(table)
        for row in table.to_pylist():
            row |= {"own_id": row["video_id"], "manifest": number, "label": labels[len(rows)]}
            rows.append(row if has_splits else {**row, "split": data.train_split})
    _hold_out(rows, data.train_split)
    rows = _once(rows)
    _name_apart(rows, data.manifests)
    return pa.Table.from_pylist(rows, schema=POOL_SCHEMA)


def read_each(data: DataConfig) -> list[pa.Table]:
    """The manifests as they are.

    Raises:
        ConfigError: none is named.
        UsageError: see `read_manifest`.
    """
    if not data.manifests:
        raise ConfigError(["data.manifest: required; make one with `advise-ray data index`, or use `--videos DIR`"])
    return [read_manifest(path) for path in data.manifests]


def hash_manifests(data: DataConfig) -> str:
    """SHA-256 of the manifests' files, which the order of the clips depends on."""
    digest = hashlib.sha256()
    for path in data.manifests:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def real_path(path: str) -> str:
    """A file's one name, whichever way it was written: without `..`, and of folders that are links where they lead."""
    return path if is_url(path) else str(Path(_real_folder(str(Path(path).parent))) / Path(path).name)


@functools.lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


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


def _hold_out(rows: Sequence[Row], train_split: str) -> None:
    """What one manifest holds out another does not train on."""
    held_out: dict[str, dict[int, str]] = defaultdict(dict)
    for row in rows:
        if row["split"] not in (train_split, None):
            held_out[real_path(row["path"])].setdefault(row["manifest"], row["split"])
    moved = 0
    for row in rows:
        of_file = held_out.get(real_path(row["path"]), {}) if row["split"] in (train_split, None) else {}
        elsewhere = [split for manifest, split in of_file.items() if manifest != row["manifest"]]
        if elsewhere:
            row["split"], moved = elsewhere[0], moved + 1
    if moved:
        log.warning("note: %d videos are held out by one manifest, and not trained on though another does", moved)


def _once(rows: Sequence[Row]) -> list[Row]:
    """The first row of each file, or part of one, with what the others know beside it."""
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = (real_path(row["path"]), row["start_frame"], row["end_frame"])
        known = first.setdefault(key, row)
        for name in (*FILLED, "split"):
            if known[name] is None:
                known[name] = row[name]
    if len(first) < len(rows):
        log.warning("note: %d videos are in several manifests, and count once", len(rows) - len(first))
    return list(first.values())


def _name_apart(rows: Sequence[Row], paths: Sequence[Path]) -> None:
    counts = Counter(row["video_id"] for row in rows)
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [f"{number}_{stem}" for number, stem in enumerate(stems)]
    for row in rows:
        if counts[row["video_id"]] > 1:
            row["video_id"] = f"{names[row['manifest']]}:{row['video_id']}"
