"""Streams decoded batches to the Ray Train workers with Ray Data, in the order of the schedule.

Each row of the stream is one worker's share of one batch, and each block holds one row. So
`streaming_split(equal=True)` gives the rows to the workers in turn, and never slices, concatenates or drops one. The
rows come from a lazy generator that is at most a fixed number of batches ahead of the workers. So a long run starts as
fast as a short one, and decoded clips never fill the object store.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.train import DataConfig
from ray.util.metrics import Counter
from ray.util.placement_group import PlacementGroup

from advise_ray.backend.backpressure import paced, start_pace
from advise_ray.backend.generator_source import row_by_row, rows
from advise_ray.backend.processes import Shares
from advise_ray.backend.reservation import Places
from advise_ray.config import Config
from advise_ray.training.batch_schedule import Batch, Schedule
from advise_ray.training.clip_block import Row
from advise_ray.training.clip_reader import ClipReader


@dataclass(frozen=True)
class ClipStream:
    """The batches of a run from `start_step` on (see `Schedule.batches`), for any number of workers."""

    config: Config
    schedule: Schedule
    videos: Any
    """ObjectRef of list[Video], the rows of the manifest."""
    start_step: int
    shares: Shares
    group: PlacementGroup
    """The placement group of the run: a bundle for each worker, then one for each decode actor."""
    validation_first: bool = False

    def open(self, num_workers: int) -> list[ray.data.DataIterator]:
        """Create one iterator for each worker. All workers must read at the same time; decoding starts when they do.

        Each block holds the name of the `Pace` actor, to which the first worker reports how many batches it has taken.
        """
        pace_name = f"pace-{uuid.uuid4().hex}"
        pace = start_pace(pace_name)
        ahead = max(2, self.config.data.max_clips_in_flight // self.schedule.batch_size)
        shares = self.shares
        with row_by_row(preserve_order=True):
            batches = partial(self.schedule.batches, self.start_step, validation_first=self.validation_first)
            plan = rows(lambda: _plan_rows(batches(), num_workers, ahead, pace, pace_name))
            decoded = plan.map_batches(
                ReadClips,
                fn_constructor_args=(self.config, self.videos),
                batch_size=None,
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=shares.num_decode_actors),
                num_cpus=shares.cpus_per_decode_actor,
                ray_remote_args_fn=Places(self.group, shares.num_workers, shares.num_decode_actors),
            )
            return decoded.streaming_split(num_workers, equal=True)


class StreamConfig(DataConfig):
    """Opens the stream at each start of the worker group, for the number of workers that the group has."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, *_args: Any, **_kwargs: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        opened = {name: stream.open(world_size) for name, stream in datasets.items()}
        return [{name: shards[rank] for name, shards in opened.items()} for rank in range(world_size)]


def _plan_rows(batches: Iterator[Batch], num_workers: int, ahead: int, pace: Any, pace_name: str) -> Iterator[pa.Table]:
    """Yield a row for each worker's share of each batch, at most `ahead` batches ahead of the workers."""
    for batch in paced(batches, ahead, pace):
        for share in batch.shares(num_workers):
            yield pa.Table.from_pylist([{**share.to_row(), "pace": pace_name}])


class ReadClips:
    """A decode actor: decodes the clips of a row, or reads them from a remote feature cache."""

    def __init__(self, config: Config, videos: Any) -> None:
        self.reader = ClipReader(config, ray.get(videos))
        self.clips = Counter("advise_ray_decode_clips", "Clips that the decode actors have sent to workers.")
        self.busy_s = Counter("advise_ray_decode_busy_s", "Seconds of work of all decode actors together.")

    def __call__(self, row: Row) -> Row:
        started_s = time.perf_counter()
        block = self.reader(Batch.from_row(row))
        self.clips.inc(block.weights.size)
        self.busy_s.inc(time.perf_counter() - started_s)
        return {**block.to_row(), "pace": row["pace"]}
