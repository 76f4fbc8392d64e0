"""Numbers that stand for texts and files, so that millions of them are compared with 8 bytes each.

Different texts have different numbers, except with a chance of one in 400,000 among ten million texts. The numbers are
valid within one process.
"""

from __future__ import annotations

import functools
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from advise_ray.storage.remote import is_url

Keys = NDArray[np.int64]


def text_keys(texts: pa.ChunkedArray) -> Keys:
    """Return the key of each text, int64[n]."""
    keys = np.empty(len(texts), dtype=np.int64)
    start = 0
    for chunk in texts.chunks:
        each = map(hash, chunk.to_numpy(zero_copy_only=False))
        keys[start : start + len(chunk)] = np.fromiter(each, np.int64, len(chunk))
        start += len(chunk)
    return keys


def file_keys(paths: pa.ChunkedArray) -> Keys:
    """Return the key of each file, int64[n]. It does not depend on how a path names the folder (`..`, links)."""
    return text_keys(pa.chunked_array([_real_paths(chunk) for chunk in paths.chunks], pa.string()))


def with_numbers(keys: Keys, *columns: pa.ChunkedArray) -> Keys:
    """Return the keys of rows: of a text and of integers, which may be null."""
    for column in columns:
        numbers = np.asarray(pc.fill_null(column, -1))
        keys = (keys ^ (keys >> 29)) * -0x40A7B892E31B1A47 + numbers * -0x6B2FB644ECCEEE15
    return keys


def _real_paths(paths: pa.Array) -> pa.Array:
    folders = pc.replace_substring_regex(paths, "(?s)[^/]*$", "").dictionary_encode()
    real = pa.array(
        [each if is_url(each) else _real_folder(each) for each in folders.dictionary.to_pylist()], pa.string()
    )
    names = pc.replace_substring_regex(paths, "(?s)^.*/", "")
    return pc.binary_join_element_wise(real.take(folders.indices), names, "/")


@functools.lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
