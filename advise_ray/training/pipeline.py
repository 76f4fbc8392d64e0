"""Ray Data: plan rows in, decoded batches out, streamed to the Ray Train workers in the schedule's order.

One row of the stream is one worker's share of one batch, and one block holds one row: so `streaming_split(equal=True)`
deals the rows out like cards, worker after worker, and nothing is ever sliced, concatenated or dropped. The plan is a
lazy generator, a bounded number of batches ahead of the workers: a run of millions of steps starts as fast as one of
ten, and decoded clips never fill the object store.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext, ExecutionOptions
from ray.data.block import BlockMetadata
from ray.train import DataConfig

from advise_ray.config import Config, played_clip
from advise_ray.errors import VideoDecodeError
from advise_ray.training.schedule import Schedule
from advise_ray.video import augment
from advise_ray.video.child import DecodeProcess
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import Clip, keyed_rng, plan_clips, plan_val_clips

GREY = 128
"""What a masked clip shows where its whole share of the batch failed."""


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
                DecodeClips,
                fn_constructor_args=(self.config, self.videos),
                batch_size=None,
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=self.num_decode_actors),
                num_cpus=self.cpus_per_decode_actor,
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
        shares = [np.split(column, num_workers) for column in (batch.videos, batch.clips, batch.weights)]
        for videos, clips, weights in zip(*shares, strict=True):
            row = {"train": batch.train, "epoch": batch.epoch, "step": batch.step, "pace": pace_name}
            yield pa.Table.from_pylist([{**row, "videos": videos, "clips": clips, "weights": weights}])


def clip_bytes(config: Config) -> int:
    """Bytes of one decoded clip on its way to a worker."""
    return config.data.clip.num_frames * config.augment.resize_height_px * config.augment.resize_width_px * 3


class DecodeClips:
    """What a decode actor does: turn a plan row into pixels.

    Out of a row come, with a leading axis of 1 and B clips: `frames` uint8[1, B, T, H, W, 3], `draws` float32[1, B, D]
    (augmentation), `targets` int64[1, B], `weights` float32[1, B], `frame_indices` int64[1, B, T], `rate_indices`
    int64[1, B], the row's own `videos` and `clips`, and `failures`, one "video_id<tab>reason" a line.

    A video that cannot be decoded becomes clips of weight 0 that show a valid clip of the same row, so that batch
    norm sees only real clips.
    """

    def __init__(self, config: Config, videos: Any) -> None:
        self.config = config
        self.videos: list[Video] = ray.get(videos)
        self.decoder = DecodeProcess(config.data.decode_timeout_s)

    def __call__(self, row: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        train, epoch = bool(row["train"][0]), int(row["epoch"][0])
        videos, clips = np.asarray(row["videos"][0]), np.asarray(row["clips"][0])
        weights = np.array(row["weights"][0], dtype=np.float32)
        size = self.config.augment
        shape = (len(videos), self.config.data.clip.num_frames, size.resize_height_px, size.resize_width_px, 3)
        frames = self.decoder.frames(shape)
        plans: list[Clip] = [Clip(np.empty(0, dtype=np.int64), 0)] * len(videos)
        draws = np.tile(augment.centre_crop(size), (len(videos), 1))
        failed = np.zeros(len(videos), dtype=bool)
        failures = []
        for index in dict.fromkeys(videos.tolist()):
            video, places = self.videos[index], np.flatnonzero(videos == index)
            planned = self._plan(video, train, epoch)
            for place in places:
                plans[place] = planned[clips[place]]
                if train:
                    rng = keyed_rng(self.config.seed, "augment", epoch, video.video_id, int(clips[place]))
                    draws[place] = augment.draw(size, rng)
            try:
                wanted = np.stack([plans[place].frame_indices for place in places])
                self._decode(video, wanted, frames, places)
            except VideoDecodeError as error:
                failed[places] = True
                failures.append(f"{video.video_id}\t{error.reason}")
        if failures:
            valid = np.flatnonzero(~failed)
            frames[failed] = frames[valid[0]] if len(valid) else GREY
            weights[failed] = 0
        rate_indices = np.asarray([[plan.rate_index for plan in plans]])
        labels = np.asarray([[self.videos[index].label for index in videos]])
        return {
            **{name: row[name] for name in ("train", "epoch", "step", "pace")},
            "videos": videos[None],
            "clips": clips[None],
            "weights": weights[None],
            "frames": frames[None],
            "draws": draws[None],
            "targets": rate_indices if self.config.task == "prp" else labels,
            "rate_indices": rate_indices,
            "frame_indices": np.stack([plan.frame_indices for plan in plans])[None],
            "failures": np.asarray(["\n".join(failures)]),
        }

    def _plan(self, video: Video, train: bool, epoch: int) -> list[Clip]:
        clip, num_frames = played_clip(self.config), len(video.frames)
        if train:
            rng = keyed_rng(self.config.seed, "clip", epoch, video.video_id)
            clips = plan_clips(num_frames, clip, rng, video.fps)
        else:
            rng = keyed_rng(self.config.seed, "val", video.video_id)  # the same clips after every epoch
            clips = plan_val_clips(num_frames, clip, self.config.data.val_clips_per_rate, rng, video.fps)
        return [Clip(planned.frame_indices + video.frames.start, planned.rate_index) for planned in clips]

    def _decode(
        self, video: Video, frame_indices: NDArray[np.int64], frames: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> None:
        video.refuse_above(self.config.data.max_pixels)
        self.decoder.decode_into(
            frames,
            places,
            video.path,
            frame_indices,
            **video.decoding,
        )
