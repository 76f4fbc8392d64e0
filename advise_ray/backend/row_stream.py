"""Runs rows through a Ray Data pipeline in the process that uses the results.

    for block in stream(rows, lambda dataset: dataset.map_batches(Decode), ahead=8):
        ...

This process takes the rows from an iterator, one by one. At most `ahead` rows are under way at once: given to the
pipeline, and their results not yet taken. So the first result of a long stream comes as soon as that of a short one,
results never fill the object store, and no other process has to count.

Ray Data (2.60) has no such source. Its read tasks run in other processes and read on until the object store is full.
From then on its scheduling loop busy-waits, because outputs that it holds back count as ready.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import DataContext, Dataset, ExecutionOptions
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.interfaces import BlockEntry, ExecutionResources, PhysicalOperator, RefBundle
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data._internal.logical.interfaces import LogicalOperator, LogicalPlan, SourceOperator
from ray.data._internal.planner.planner import Planner
from ray.data._internal.stats import DatasetStats
from ray.data.block import BlockAccessor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Block = dict[str, NDArray[Any]]
"""A block of Ray Data in its format `batch_format="numpy"`."""
IDLE_S = 0.1
"""How long the scheduling loop sleeps if nothing is left to do, and the consumer takes nothing."""


def stream(
    rows: Iterator[pa.Table],
    pipeline: Callable[[Dataset], Dataset],
    *,
    ahead: int,
    prefetch: int = 1,
    preserve_order: bool = False,
) -> Generator[Block]:
    """Yield the results of a pipeline, block by block. Closing the generator ends the pipeline's actors.

    Args:
        rows: tables of one row. Each of them is a block that moves through the pipeline alone.
        pipeline: adds operators, which must return one block for each block.
        ahead: the number of rows that may be under way at once, at least 1.
        prefetch: the number of results that are copied to this process in advance.
        preserve_order: whether the results come in the order of the rows.
    """
    supply = _Supply(rows, ahead)
    prefetch = min(prefetch, ahead - 1)  # Ray holds one more than these before it yields the first
    results = _build(supply, pipeline, preserve_order).iterator()
    for block in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch):
        supply.took_one()
        yield block


def stream_from_actor(
    rows: Callable[[], Iterator[pa.Table]], pipeline: Callable[[Dataset], Dataset], *, ahead: int
) -> Generator[Block]:
    """The same as `stream`, for drivers, with results in any order. An actor runs the pipeline.

    If the driver ran it, Ray (2.60) would print a warning on the terminal for each actor with arguments (issue 53727).

    Args:
        rows: called once, in the actor.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    runner = ray.remote(_Runner).options(num_cpus=0, scheduling_strategy=here).remote(rows, pipeline, ahead)
    try:
        coming = runner.take.remote()
        while blocks := ray.get(coming):
            coming = runner.take.remote()
            yield BlockAccessor.for_block(ray.get(blocks[0])).to_batch_format("numpy")
    finally:
        if ray.is_initialized():  # an actor with a pending call would go on until the driver ends
            ray.kill(runner)


class _Runner:
    """The actor of `stream_from_actor`."""

    def __init__(
        self, rows: Callable[[], Iterator[pa.Table]], pipeline: Callable[[Dataset], Dataset], ahead: int
    ) -> None:
        self.supply = _Supply(rows(), ahead)
        self.results = _build(self.supply, pipeline, preserve_order=False).iter_internal_ref_bundles()

    def take(self) -> list[ray.ObjectRef]:
        """Return a reference to the next result; nothing after the last one."""
        bundle = next(self.results, None)
        if bundle is None:
            return []
        self.supply.took_one()
        return list(bundle.block_refs)


def _build(supply: _Supply, pipeline: Callable[[Dataset], Dataset], preserve_order: bool) -> Dataset:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # see `errors.unwrapped`
    context.target_max_block_size = 1  # each row is a block
    context.execution_options = ExecutionOptions(preserve_order=preserve_order)
    context.downstream_capacity_backpressure_ratio = None
    context.execution_no_progress_timeout_s = -1  # a consumer may pause
    # Ray Data sends no work to actors on a node that will leave. If all actors of a stream are there, nothing would
    # come any more, although the node still works: the time is meant for saving.
    actor_pool_map_operator.get_draining_nodes = dict
    streaming_executor.create_cluster_autoscaler = _Reserved
    with DataContext.current(context), warnings.catch_warnings():
        # Ray 2.60 has no other way to give each actor of a pool its own bundle (`reservation.Places`).
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        source = Dataset(LogicalPlan(_Rows(supply), context), context, DatasetStats(metadata={}, parent=None))
        return pipeline(source)


class _Reserved(ClusterAutoscaler):
    """Requests no nodes, because a placement group has already reserved everything. Ray's class starts a process."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def try_trigger_scaling(self) -> None:
        pass

    def on_executor_shutdown(self) -> None:
        pass

    def get_total_resources(self) -> ExecutionResources:
        return ExecutionResources.from_resource_dict(ray.cluster_resources())


class _Supply:
    """Takes rows from an iterator when they are due. Its methods are called by two threads."""

    def __init__(self, rows: Iterator[pa.Table], ahead: int) -> None:
        self.rows, self.ahead = rows, ahead
        self.following = next(rows, None)
        self.under_way = 0
        self.changed = threading.Condition()

    def took_one(self) -> None:
        """Called by the consumer for each result that it takes."""
        with self.changed:
            self.under_way -= 1
            self.changed.notify_all()

    def is_due(self, wait_s: float) -> bool:
        """Whether a row can be taken now, or within `wait_s`."""
        with self.changed:
            return self.following is not None and self.changed.wait_for(lambda: self.under_way < self.ahead, wait_s)

    def take(self) -> RefBundle:
        """Return the next row as a bundle of Ray Data."""
        table = self.following
        assert table is not None
        self.following = next(self.rows, None)
        with self.changed:
            self.under_way += 1
        about = BlockAccessor.for_block(table).get_metadata()
        return RefBundle([BlockEntry(ray.put(table), about)], owns_blocks=True, schema=table.schema)


class _Rows(LogicalOperator, SourceOperator):
    """The rows of a `_Supply`, in Ray Data's logical plan."""

    def __init__(self, supply: _Supply) -> None:
        super().__init__()
        object.__setattr__(self, "supply", supply)  # Ray's operators are frozen

    def output_data(self) -> None:
        return None


class _RowSource(InputDataBuffer):
    """The operator that passes the rows on. Ray Data's scheduling loop, a thread of this process, calls it."""

    def __init__(self, context: DataContext, supply: _Supply) -> None:
        super().__init__(context, input_data=[])
        self.supply = supply
        self._is_execution_marked_finished = False

    def has_execution_finished(self) -> bool:
        return self._is_execution_marked_finished or self.supply.following is None

    def has_next(self) -> bool:
        """Whether a row is due. If no task is running, this waits, because Ray's loop would not."""
        idle = all(not operator.get_active_tasks() for operator in self._following())
        return not self._is_execution_marked_finished and self.supply.is_due(IDLE_S if idle else 0.0)

    def _get_next_inner(self) -> RefBundle:
        for operator in self._following():  # Ray keeps the statistics of every block to the end of the stream
            operator._output_blocks_stats.clear()
        return self.supply.take()

    def _following(self) -> list[PhysicalOperator]:
        """The operators of the pipeline, all of which are maps."""
        found = list(self.output_dependencies)
        for operator in found:
            found += operator.output_dependencies
        return found


def _plan(rows: _Rows, _children: list[PhysicalOperator], context: DataContext) -> PhysicalOperator:
    return _RowSource(context, rows.supply)


Planner._DEFAULT_PLAN_FNS[_Rows] = _plan
