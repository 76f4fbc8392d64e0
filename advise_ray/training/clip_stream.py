"""Ray Data: plan rows in, decoded batches out, streamed to the Ray Train workers in the schedule's order.

One row of the stream is one worker's share of one batch, and one block holds one row: so `streaming_split(equal=True)`
deals the rows out like cards, worker after worker, and nothing is ever sliced, concatenated or dropped. The plan is a
lazy generator, a bounded number of batches ahead of the workers: a run of millions of steps starts as fast as one of
ten, and decoded clips never fill the object store.
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
from ray.data import DataContext
from ray.train import DataConfig
from ray.util.metrics import Counter
from ray.util.placement_group import PlacementGroup

from advise_ray.backend.backpressure import paced, start_pace
from advise_ray.backend.generator_source import row_by_row, rows
from advise_ray.backend.reservation import Places
from advise_ray.backend.resources import Shares
from advise_ray.config import Config
from advise_ray.training.clip_block import Row
from advise_ray.training.clip_reader import ClipReader
from advise_ray.training.schedule import Batch, Schedule


@dataclass(frozen=True)
class ClipStream:
    """All batches of a run from `start_step` on (see `Schedule.batches`), ready for any number of workers."""

    config: Config
    schedule: Schedule
    videos: Any
    """ObjectRef of list[Video], the manifest's rows."""
    start_step: int
    shares: Shares
    group: PlacementGroup
    """The run's room: a bundle for each worker, then one for each decode actor."""
    validation_first: bool = False

    def open(self, num_workers: int) -> list[ray.data.DataIterator]:
        """Start nothing yet; one iterator a worker, to be read by all of them at once.

        The blocks name the `Pace` actor, which the workers tell how many batches they have taken.
        """
        pace_name = f"pace-{uuid.uuid4().hex}"
        pace = start_pace(pace_name)
        ahead = max(2, self.config.data.max_clips_in_flight // self.schedule.batch_size)
        shares = self.shares
        with DataContext.current(row_by_row(preserve_order=True)):
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
    """Opens the stream for as many workers as the group has, at each start of the group."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, *_args: Any, **_kwargs: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        opened = {name: stream.open(world_size) for name, stream in datasets.items()}
        return [{name: shards[rank] for name, shards in opened.items()} for rank in range(world_size)]


def _plan_rows(batches: Iterator[Batch], num_workers: int, ahead: int, pace: Any, pace_name: str) -> Iterator[pa.Table]:
    """A row for each worker's share of each batch, at most `ahead` batches before the workers."""
    for batch in paced(batches, ahead, pace):
        for share in batch.shares(num_workers):
            yield pa.Table.from_pylist([{**share.to_row(), "pace": pace_name}])


class ReadClips:
    """What a decode actor does; with a remote feature cache, it reads that instead."""

    def __init__(self, config: Config, videos: Any) -> None:
        self.reader = ClipReader(config, ray.get(videos))
        self.clips = Counter("advise_ray_decode_clips", "Clips that decode actors have handed on.")
        self.busy_s = Counter("advise_ray_decode_busy_s", "Seconds that decode actors have worked, all together.")

    def __call__(self, row: Row) -> Row:
        started_s = time.perf_counter()
        block = self.reader(Batch.from_row(row))
        self.clips.inc(block.weights.size)
        self.busy_s.inc(time.perf_counter() - started_s)
        return {**block.to_row(), "pace": row["pace"]}
