from __future__ import annotations

from typing import NotRequired, TypedDict

import pyarrow as pa

from advise_ray.storage.parquet import may_be_none, schema_of


class Row(TypedDict):
    name: str
    size: int | None
    seconds: NotRequired[float | None]
    splits: list[str | None] | None


def test_the_columns_of_a_file_are_the_keys_of_its_row() -> None:
    columns = {"name": pa.string(), "size": pa.int64(), "seconds": pa.float64(), "splits": pa.list_(pa.string())}
    assert schema_of(Row).equals(pa.schema(columns))
    assert may_be_none(Row) == ("size", "seconds", "splits")
