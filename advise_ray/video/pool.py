"""Reads the videos of a configuration from one manifest, or from several manifests that form a pool."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from advise_ray.config import DataConfig
from advise_ray.errors import ConfigError
from advise_ray.video.joining import join
from advise_ray.video.manifest import read_manifest
from advise_ray.video.printed import printed


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
    return tables[0] if len(tables) == 1 else join(tables, data.manifests, data.train_split)


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
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def hash_videos(table: pa.Table) -> str:
    """Return the SHA-256 of the rows of `read_videos`, without the places and the times of the files.

    The order of the clips depends on these rows. Videos that were moved and indexed again have the same hash.
    """
    digest = hashlib.sha256()
    for name in (name for name in table.column_names if name not in ("path", "modified_ns")):
        digest.update(f"({name!r}, [".encode())
        for number, chunk in enumerate(table.column(name).chunks):
            digest.update(b", " * (number > 0))
            digest.update(printed(chunk))
        digest.update(b"])")
    return digest.hexdigest()
