"""The text of a column as Python prints the list of its values, on which the hash of a manifest depends."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

PLAIN = r"^[ -&(-\[\]-~]*$"
"""Texts that Python prints between quotes as they are: ASCII without quotes, backslashes and control characters."""


def printed(column: pa.Array) -> memoryview:
    """Return `repr(column.to_pylist())` without the brackets, in UTF-8."""
    row = pa.ListArray.from_arrays(pa.array([0, len(column)], pa.int32()), _texts(column))
    return memoryview(pc.binary_join(row, ", ")[0].as_buffer())


def _texts(column: pa.Array) -> pa.Array:
    """Return `repr` of each value. Arrow prints most values itself, which is much faster."""
    kind = column.type
    if column.null_count == len(column):
        return pa.repeat("None", len(column))
    if pa.types.is_list(kind):
        inner = pa.ListArray.from_arrays(column.offsets, _texts(column.values))
        texts = pc.binary_join_element_wise("[", pc.binary_join(inner, ", "), "]", "")
        return pc.if_else(column.is_valid(), texts, "None")
    if pa.types.is_integer(kind):
        texts = column.cast(pa.string())
    elif pa.types.is_string(kind) and pc.all(pc.match_substring_regex(column, PLAIN)).as_py():
        texts = pc.binary_join_element_wise("'", column, "'", "")
    else:  # Arrow prints 30.0 as 30
        values = column.dictionary_encode()
        texts = pa.array(map(repr, values.dictionary.to_pylist()), pa.string()).take(values.indices)
    return texts.fill_null("None")
