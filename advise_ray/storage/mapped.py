"""Tables in mapped files: the system reads their pages when they are needed, and drops them when memory is short."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable

import pyarrow as pa

from advise_ray.errors import UsageError

ROWS_AT_ONCE = 1 << 17
"""Rows of a record batch. Work on a table that goes batch by batch needs the memory of one batch."""


def mapped(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Return a table of the batches. Its memory is a temporary file, which ends with the table.

    Raises:
        UsageError: the folder for temporary files has too little room, or cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix="advise-ray-", suffix=".arrow") as file:
            with pa.ipc.new_file(file.name, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            return pa.ipc.open_file(pa.memory_map(file.name)).read_all()  # a mapped file outlives its name
    except OSError as error:
        raise UsageError(
            f"{tempfile.gettempdir()}: cannot write the columns of a manifest: {error.strerror or error}; set TMPDIR "
            "to a folder with more room"
        ) from None
