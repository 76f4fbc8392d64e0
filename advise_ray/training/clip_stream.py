"""Streams decoded batches to a Ray Train worker with Ray Data, in the order of the schedule.

Each worker has a stream of its own, which it runs itself: the schedule is arithmetic, so each worker knows its share of
each batch, and nothing passes through one process. The worker's decode actors are in the placement group of the run.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.util.metrics import Counter
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from advise_ray.backend.processes import decode_actors_of
from advise_ray.backend.row_stream import Block, stream, stream_from_actor
from advise_ray.config import Config
from advise_ray.training.batch_schedule import Batch, Schedule
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.clip_reader import ClipReader

PREFETCH = 2
"""Blocks that are copied to the worker's process in advance."""


@dataclass(frozen=True)
class ClipStream:
    """One worker's shares of the batches of a run, from `start_step` on (see `Schedule.batches`)."""

    config: Config
    schedule: Schedule
    videos: Any
    """ObjectRef of the Videos."""
    start_step: int
    group: PlacementGroup
    """The placement group of the run: a bundle for each worker, then one for each decode actor."""
    rank: int = 0
    num_workers: int = 1
    validation_first: bool = False

    def blocks(self) -> Generator[ClipBlock]:
        """Yield the blocks in order. Decoding starts with the first one."""
        for block in stream(self._rows(), self._decode, ahead=self._ahead, prefetch=PREFETCH, preserve_order=True):
            yield ClipBlock.from_row(block)

    def blocks_for_driver(self) -> Generator[ClipBlock]:
        """Yield the blocks in any order; see `stream_from_actor`."""
        for block in stream_from_actor(self._rows, self._decode, ahead=self._ahead):
            yield ClipBlock.from_row(block)

    @property
    def _ahead(self) -> int:
        return max(2, self.config.data.max_clips_in_flight // self.schedule.batch_size)

    def _rows(self) -> Iterator[pa.Table]:
        for batch in self.schedule.batches(self.start_step, validation_first=self.validation_first):
            yield pa.Table.from_pylist([batch.share(self.rank, self.num_workers).to_row()])

    def _decode(self, dataset: ray.data.Dataset) -> ray.data.Dataset:
        bundles = self.group.bundle_specs
        return dataset.map_batches(
            ReadClips,
            fn_constructor_args=(self.config, self.videos),
            batch_size=None,
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                size=decode_actors_of(self.rank, self.num_workers, len(bundles) - self.num_workers)
            ),
            num_cpus=bundles[-1]["CPU"],
            # The workers fill their bundles, so the actors get the others, on the worker's own node if there is room.
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.group),
        )


class ReadClips:
    """A decode actor: decodes the clips of a row, or reads them from a remote feature cache."""

    def __init__(self, config: Config, videos: Any) -> None:
        self.reader = ClipReader(config, ray.get(videos))
        self.clips = Counter("advise_ray_decode_clips", "Clips that the decode actors have sent to workers.")
        self.busy_s = Counter("advise_ray_decode_busy_s", "Seconds of work of all decode actors together.")

    def __call__(self, row: Block) -> Block:
        started_s = time.perf_counter()
        block = self.reader(Batch.from_row(row))
        self.clips.inc(block.weights.size)
        self.busy_s.inc(time.perf_counter() - started_s)
        return block.to_row()
