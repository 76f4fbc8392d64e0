"""Parquet files whose rows are TypedDicts."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.storage.atomic import write_whole

_COLUMN_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    list[str | None]: pa.list_(pa.string()),
}


def schema_of(row: type) -> pa.Schema:
    """Return the columns of a TypedDict. Every column may be null, so `X | None` gives the same column as `X`."""
    hints = get_type_hints(row).items()
    return pa.schema([(name, _COLUMN_TYPES[_without_none(hint)]) for name, hint in hints])


def may_be_none(row: type) -> tuple[str, ...]:
    """Return the keys of a TypedDict that are declared as `X | None`."""
    return tuple(name for name, hint in get_type_hints(row).items() if NoneType in get_args(hint))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as `write_whole` does."""
    write_whole(path, lambda file: pq.write_table(table, file))


def read_table(path: Path) -> pa.Table:
    """Read a table.

    Raises:
        OSError: the file cannot be read. The error is Python's, whose `errno` says why; pyarrow's may lack it.
        pyarrow.ArrowInvalid: the file is not Parquet.
    """
    return pq.read_table(pa.BufferReader(path.read_bytes()))


def _without_none(hint: Any) -> Any:
    return next(kind for kind in get_args(hint) if kind is not NoneType) if NoneType in get_args(hint) else hint
