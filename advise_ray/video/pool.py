"""Reads the videos of a configuration from one manifest, or from several manifests that form a pool."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from advise_ray.config import DataConfig
from advise_ray.errors import ConfigError
from advise_ray.storage.remote import is_url
from advise_ray.video.manifest import SCHEMA, ManifestRow, named_classes, read_manifest

log = logging.getLogger("advise_ray")
FILLED = ("label", "class_name", "official_splits", "group", "split")
"""Columns that a file takes from the first manifest that has a value."""


class PoolRow(ManifestRow):
    """A row of a manifest of the pool.

    Attributes:
        own_id: the video's id in its manifest; `video_id` is unique in the pool.
        manifest: number of the manifest in `data.manifest`, from 0. The pool's table does not have it.
    """

    own_id: str
    manifest: int


POOL_SCHEMA = SCHEMA.append(pa.field("own_id", pa.string()))


def read_videos(data: DataConfig) -> pa.Table:
    """Read the rows of `data.manifest`. If it is a list (a pool), join the manifests in order.

    In a pool:

    - All videos of a manifest without splits are training videos.
    - A file that is in several manifests is used once. It is not trained on if one of them holds it out. Other files
      of its group may still be trained on, because a manifest knows only its own groups.
    - If several files have the same video_id, the name of the manifest is put in front of it. A feature cache still
      uses the original id (`own_id`).
    - Classes with the same name are one class. A label without a class name is dropped if other manifests have labels.

    Raises:
        ConfigError: `data.manifest` is unset.
        UsageError: See `read_manifest`.
    """
    tables = read_each(data)
    if len(tables) == 1:
        return tables[0]
    labels = _labels(tables)
    rows: list[PoolRow] = []
    for number, table in enumerate(tables):
        has_splits = table.column("split").null_count < len(table)
        for row in table.to_pylist():
            row |= {"own_id": row["video_id"], "manifest": number, "label": labels[len(rows)]}
            rows.append(row if has_splits else row | {"split": data.train_split})
    _hold_out(rows, data.train_split)
    rows = _merge_duplicates(rows)
    _make_ids_unique(rows, data.manifests)
    return pa.Table.from_pylist(rows, schema=POOL_SCHEMA)


def read_each(data: DataConfig) -> list[pa.Table]:
    """Read each manifest separately.

    Raises:
        ConfigError: `data.manifest` is unset.
        UsageError: See `read_manifest`.
    """
    if not data.manifests:
        raise ConfigError(["data.manifest: required; make one with `advise-ray data index`, or use `--videos DIR`"])
    return [read_manifest(path) for path in data.manifests]


def hash_manifests(data: DataConfig) -> str:
    """Return the SHA-256 of the manifest files."""
    digest = hashlib.sha256()
    for path in data.manifests:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def hash_videos(table: pa.Table) -> str:
    """Return the SHA-256 of the rows of `read_videos`, without the places and the times of the files.

    The order of the clips depends on these rows. Videos that were moved and indexed again have the same hash.
    """
    digest = hashlib.sha256()
    for name in (name for name in table.column_names if name not in ("path", "modified_ns")):
        digest.update(repr((name, table.column(name).to_pylist())).encode())
    return digest.hexdigest()


def real_path(path: str) -> str:
    """Return a unique path of a file, in which `..` and links to folders are resolved. URLs are unchanged."""
    return path if is_url(path) else str(Path(_real_folder(str(Path(path).parent))) / Path(path).name)


@functools.lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _labels(tables: Sequence[pa.Table]) -> list[int | None]:
    """Return labels that are numbered by class name over all manifests. If only one has labels, they are unchanged."""
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


def _hold_out(rows: Sequence[PoolRow], train_split: str) -> None:
    """Remove from training every file that another manifest holds out."""
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
        log.warning("note: videos left out of training, because another manifest holds them out: %d", moved)


def _merge_duplicates(rows: Sequence[PoolRow]) -> list[PoolRow]:
    """Keep the first row of each file (or part of a file), and fill its empty columns from the other rows."""
    first: dict[tuple[str, int | None, int | None], PoolRow] = {}
    for row in rows:
        key = (real_path(row["path"]), row["start_frame"], row["end_frame"])
        known = first.setdefault(key, row)
        for name in FILLED:
            if known[name] is None:  # type: ignore[literal-required]
                known[name] = row[name]  # type: ignore[literal-required]
    if len(first) < len(rows):
        log.warning("note: duplicates of videos in several manifests, which are used once: %d", len(rows) - len(first))
    return list(first.values())


def _make_ids_unique(rows: Sequence[PoolRow], paths: Sequence[Path]) -> None:
    """Put the name of the manifest in front of each video_id that several files have."""
    counts = Counter(row["video_id"] for row in rows)
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [f"{number}_{stem}" for number, stem in enumerate(stems)]
    for row in rows:
        if counts[row["video_id"]] > 1:
            row["video_id"] = f"{names[row['manifest']]}:{row['video_id']}"
