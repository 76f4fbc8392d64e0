"""Builds a Ray Data dataset from a lazy generator, row by row. Only a `Pace` (`backpressure.py`) throttles it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionOptions
from ray.data.block import BlockMetadata


@contextlib.contextmanager
def row_by_row(*, preserve_order: bool = False) -> Iterator[None]:
    """Each row of datasets that are built in this block is a block and moves on at once. Only a `Pace` throttles it."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1
    context.execution_options = ExecutionOptions(preserve_order=preserve_order)
    context.downstream_capacity_backpressure_ratio = None
    with DataContext.current(context), warnings.catch_warnings():
        # Ray 2.60 has no other way to give each actor of a pool its own bundle (`reservation.Places`).
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        yield


def rows(read: Callable[[], Iterator[pa.Table]]) -> ray.data.Dataset:
    """A dataset of the tables that `read` yields. One task calls `read`; it reserves no CPU."""
    return ray.data.read_datasource(_Lazy(read), num_cpus=0, override_num_blocks=1)


class _Lazy(ray.data.Datasource):
    def __init__(self, read: Callable[[], Iterator[pa.Table]]) -> None:
        self.read = read

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, *_args: Any, **_kwargs: Any) -> list[ray.data.ReadTask]:
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(self.read, metadata)]
