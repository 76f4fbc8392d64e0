"""Reads what earlier runs of `index` know about files: their manifest, rejects, and the journal of interrupted runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.dataset.probing import PROBED, Listed, Probed
from advise_ray.errors import UsageError
from advise_ray.storage.jsonl import reopen

Version = tuple[str | int | None, ...]
"""Identifies a version of a file: path, bytes, modified_ns. The path only, if a web server sends no size and time."""


def version(row: Listed) -> Version:
    """Return the version of a file."""
    return (row["path"],) if row["modified_ns"] is None else (row["path"], row["bytes"], row["modified_ns"])


def read_known(path: Path, *, again: bool = False) -> dict[Version, Probed]:
    """Rows of an earlier manifest or rejects file, by version. A file without a time is read again.

    Neither file records which part of a damaged video is readable. Therefore a damaged video that the manifest keeps is
    read again. With `again`, a rejected video that has a readable part is read again too.

    Raises:
        UsageError: the file is not Parquet.
    """
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        raise UsageError(f"--out: {path} exists and is not a manifest; move or remove it") from None
    if not {"path", "bytes", "modified_ns"} <= set(table.column_names):
        return {}
    for name in (*PROBED.names, "damage"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    rows = table.select([*PROBED.names, "damage"]).to_pylist()
    lasting = (row for row in rows if row["modified_ns"] is not None and row.pop("damage") is None)
    return {version(row): row for row in lasting if not (again and row["readable_s"])}


class Journal:
    """A file with one line for each probed video. An interrupted `index` resumes from it; a finished one deletes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {version(row): row for row in cast("list[Probed]", reopen(path) if path.exists() else [])}

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is None or issubclass(kind, UsageError) or not self.path.stat().st_size:
            self.path.unlink(missing_ok=True)

    def write(self, row: Probed) -> None:
        """Append a probed file, unless its failure may be temporary."""
        if row["lasting"] is not False:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
