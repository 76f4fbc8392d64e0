"""Ray Data: plan rows in, decoded batches out, streamed to the Ray Train workers in the schedule's order.

One row of the stream is one worker's share of one batch, and one block holds one row: so `streaming_split(equal=True)`
deals the rows out like cards, worker after worker, and nothing is ever sliced, concatenated or dropped. The plan is a
lazy generator, a bounded number of batches ahead of the workers: a run of millions of steps starts as fast as one of
ten, and decoded clips never fill the object store.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext, ExecutionOptions
from ray.data.block import BlockMetadata
from ray.train import DataConfig
from ray.util.metrics import Counter

from advise_ray import runtime
from advise_ray.config import Config
from advise_ray.training.clips import CachedFeatures, ClipReader
from advise_ray.training.schedule import Batch, Schedule
from advise_ray.video.manifest import Video

MAPPED_BLOCKS_AHEAD = 3


@dataclass(frozen=True)
class ClipStream:
    """All batches of a run from `start_step` on, ready to be opened for any number of workers."""

    config: Config
    schedule: Schedule
    videos: Any
    """ObjectRef of list[Video], the manifest's rows."""
    start_step: int
    num_decode_actors: int
    cpus_per_decode_actor: float

    def open(self, num_workers: int) -> list[ray.data.DataIterator]:
        """Start nothing yet; one iterator a worker, to be read by all of them at once.

        The blocks name the `Pace` actor, which the workers tell how many batches they have taken.
        """
        pace_name = f"pace-{uuid.uuid4().hex}"
        pace = ray.remote(Pace).options(name=pace_name, num_cpus=0).remote()
        ahead = max(2, self.config.data.max_clips_in_flight // self.schedule.batch_size)
        context = DataContext.get_current().copy()
        context.target_max_block_size = 1  # emit a block as soon as it has a row
        context.execution_options = ExecutionOptions(preserve_order=True)
        # The pace bounds what is in flight. Ray Data's own back-pressure would keep its scheduling loop spinning, at
        # half a core (ray 2.60, process_completed_tasks): held-back outputs count as ready, so it never waits.
        context.downstream_capacity_backpressure_ratio = None
        with DataContext.current(context):
            rows = ray.data.read_datasource(
                PlanSource(lambda: _plan_rows(self.schedule, self.start_step, num_workers, ahead, pace, pace_name)),
                num_cpus=0,
                override_num_blocks=1,
            )
            decoded = rows.map_batches(
                ReadClips,
                fn_constructor_args=(self.config, self.videos),
                batch_size=None,
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=self.num_decode_actors),
                num_cpus=self.cpus_per_decode_actor,
                **runtime.beside_no_gpu(),
            )
            return decoded.streaming_split(num_workers, equal=True)


class Pace:
    """An actor that keeps the plan from running away: the generator waits for it, the workers advance it."""

    def __init__(self) -> None:
        self.taken = 0
        self.changed = asyncio.Condition()

    async def advance(self, taken: int) -> None:
        """So many batches have been taken by a worker."""
        async with self.changed:
            self.taken = max(self.taken, taken)
            self.changed.notify_all()

    async def wait_for(self, taken: int) -> int:
        """Return the batches taken, once they are at least so many."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.taken >= taken)
            return self.taken


class StreamConfig(DataConfig):
    """Opens the stream for as many workers as the group has, at each start of the group."""

    def configure(
        self, datasets: dict[str, Any], world_size: int, *_args: Any, **_kwargs: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        opened = {name: stream.open(world_size) for name, stream in datasets.items()}
        return [{name: shards[rank] for name, shards in opened.items()} for rank in range(world_size)]


class PlanSource(ray.data.Datasource):
    """The schedule as a Ray Data source: one lazy read task, which yields one row at a time."""

    def __init__(self, read: Callable[[], Iterator[pa.Table]]) -> None:
        self.read = read

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, *_args: Any, **_kwargs: Any) -> list[ray.data.ReadTask]:
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(self.read, metadata)]


def _plan_rows(
    schedule: Schedule, start_step: int, num_workers: int, ahead: int, pace: Any, pace_name: str
) -> Iterator[pa.Table]:
    """A row for each worker's share of each batch, at most `ahead` batches before the workers."""
    taken = 0
    for count, batch in enumerate(schedule.batches(start_step)):
        if count - taken >= ahead:
            taken = ray.get(pace.wait_for.remote(count - ahead + 1))
        for row in plan_rows(batch, num_workers):
            yield pa.Table.from_pylist([{**row, "pace": pace_name}])


def plan_rows(batch: Batch, num_workers: int) -> list[dict[str, Any]]:
    """Each worker's share of a batch."""
    shares = [np.split(column, num_workers) for column in (batch.videos, batch.clips, batch.weights)]
    return [
        {"train": batch.train, "epoch": batch.epoch, "step": batch.step, "videos": videos, "clips": clips}
        | {"weights": weights}
        for videos, clips, weights in zip(*shares, strict=True)
    ]


def clip_bytes(config: Config) -> int:
    """Bytes of one decoded clip on its way to a worker."""
    return config.data.clip.num_frames * config.augment.resize_height_px * config.augment.resize_width_px * 3


class ReadClips:
    """What a decode actor does; with a remote feature cache, it reads that instead."""

    def __init__(self, config: Config, videos: Any) -> None:
        self.reader = ClipReader(config, ray.get(videos))
        self.clips = Counter("advise_ray_decode_clips", "Clips that decode actors have handed on.")
        self.busy_s = Counter("advise_ray_decode_busy_s", "Seconds that decode actors have worked, all together.")

    def __call__(self, row: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        started_s = time.perf_counter()
        block = self.reader(row)
        self.clips.inc(block["weights"].size)
        self.busy_s.inc(time.perf_counter() - started_s)
        return {**block, "pace": row["pace"]}


def mapped_clips(
    config: Config,
    schedule: Schedule,
    videos: list[Video],
    start_step: int,
    rank: int,
    num_workers: int,
    *,
    pinned: bool,
) -> Iterator[dict[str, NDArray[Any]]]:
    """A worker's blocks from a local feature cache, which it maps itself: no other process, and one copy.

    They are read in a thread, a few ahead of the worker.
    """
    reader = ClipReader(config, videos, CachedFeatures(config, str(config.data.features), pinned=pinned))
    rows = (plan_rows(batch, num_workers)[rank] for batch in schedule.batches(start_step))
    blocks = ({name: [value] for name, value in row.items()} for row in rows)
    with ThreadPoolExecutor(1, thread_name_prefix="features") as thread:
        ahead: deque[Future[dict[str, NDArray[Any]]]] = deque()
        for block in blocks:
            ahead.append(thread.submit(reader, block))  # type: ignore[arg-type]
            if len(ahead) > MAPPED_BLOCKS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
