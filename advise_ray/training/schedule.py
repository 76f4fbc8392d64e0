"""The stream of a run as arithmetic: which clips make up which batch, from the first step to the last.

    epoch 0: train, train, …, train, val, …, val │ epoch 1: train, …

One stream carries the training batches of all epochs and, between them, the validation batches: decoding goes on
across the borders, so the workers never wait for a new epoch to be set up. Every batch has the same size; where the
videos do not fill the last one, it is filled up with clips of weight 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import Config, played_clip, videos_per_step
from advise_ray.video.manifest import Splits, frames_per_video, split_videos
from advise_ray.video.sampling import fits_every_rate, keyed_rng


@dataclass(frozen=True)
class Batch:
    """One global batch of G clips.

    Attributes:
        train: a training batch, else a validation batch.
        epoch: from 0.
        step: optimizer steps that are done when this batch arrives.
        videos: int64[G], rows of the manifest.
        clips: int64[G], which of the video's clips.
        weights: float32[G], 0 where a clip only fills the batch.
    """

    train: bool
    epoch: int
    step: int
    videos: NDArray[np.int64]
    clips: NDArray[np.int64]
    weights: NDArray[np.float32]

    def shares(self, num_workers: int) -> list[Batch]:
        """Each worker's equal share of the batch."""
        columns = [np.split(column, num_workers) for column in (self.videos, self.clips, self.weights)]
        return [Batch(self.train, self.epoch, self.step, *share) for share in zip(*columns, strict=True)]

    def to_row(self) -> dict[str, Any]:
        """A row of the plan, for Ray Data."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def from_row(row: dict[str, NDArray[Any]]) -> Batch:
        """The batch of a row, in which each array has a leading axis of 1."""
        train, epoch, step = (row[name][0] for name in ("train", "epoch", "step"))
        columns = (np.asarray(row[name][0]) for name in ("videos", "clips", "weights"))
        return Batch(bool(train), int(epoch), int(step), *columns)


@dataclass(frozen=True)
class Schedule:
    """All batches of a run.

    Attributes:
        train_videos: int64[n], rows of the manifest that are trained on.
        val_videos: int64[m], rows that are validated on; of rates: those long enough for every one.
        num_short_val_videos: validation videos that are left out because not every rate fits.
        num_unlabelled_videos: videos of both splits that `task: action` leaves out, where others have labels.
    """

    seed: int
    epochs: int
    val_every_epochs: int
    batch_size: int
    clips_per_video: int
    val_clips_per_video: int
    train_videos: NDArray[np.int64]
    val_videos: NDArray[np.int64]
    num_short_val_videos: int
    num_unlabelled_videos: int = 0

    @property
    def videos_per_step(self) -> int:
        return self.batch_size // self.clips_per_video

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train_videos) // self.videos_per_step)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def val_batches(self) -> int:
        """Batches of one validation; 0 where there is nothing to validate on."""
        return -(-len(self.val_videos) * self.val_clips_per_video // self.batch_size)

    def validates(self, epoch: int) -> bool:
        """Whether validation batches follow the training batches of this epoch."""
        return due(epoch + 1, self.val_every_epochs, self.epochs) and self.val_batches > 0

    def batches(self, start_step: int = 0, *, validation_first: bool = False) -> Iterator[Batch]:
        """The batches from `start_step` on; at an epoch's first step its predecessor's validation is over, unless that
        comes first."""
        if validation_first and self.validates(last := start_step // self.steps_per_epoch - 1):
            yield from self._val_batches(last)
        for epoch in range(start_step // self.steps_per_epoch, self.epochs):
            first_step = epoch * self.steps_per_epoch
            for index, (videos, weights) in enumerate(self._train_batches(epoch)):
                if first_step + index >= start_step:
                    clips = np.tile(np.arange(self.clips_per_video), self.videos_per_step)
                    repeats = self.clips_per_video
                    yield Batch(True, epoch, first_step + index, videos.repeat(repeats), clips, weights.repeat(repeats))
            if self.validates(epoch):
                yield from self._val_batches(epoch)

    def _train_batches(self, epoch: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        order = keyed_rng(self.seed, "order", epoch).permutation(self.train_videos)
        padded = np.resize(order, self.steps_per_epoch * self.videos_per_step)
        weights = (np.arange(len(padded)) < len(order)).astype(np.float32)
        for start in range(0, len(padded), self.videos_per_step):
            window = slice(start, start + self.videos_per_step)
            yield padded[window], weights[window]

    def _val_batches(self, epoch: int) -> Iterator[Batch]:
        videos = self.val_videos.repeat(self.val_clips_per_video)
        clips = np.tile(np.arange(self.val_clips_per_video), len(self.val_videos))
        size = self.val_batches * self.batch_size
        weights = (np.arange(size) < len(videos)).astype(np.float32)
        videos, clips = np.resize(videos, size), np.resize(clips, size)
        for start in range(0, size, self.batch_size):
            window = slice(start, start + self.batch_size)
            yield Batch(
                False, epoch, (epoch + 1) * self.steps_per_epoch, videos[window], clips[window], weights[window]
            )


def due(count: int, every: int, last: int) -> bool:
    """Whether something that happens `every` so often, and at the `last`, happens at `count` (from 1)."""
    return count % every == 0 or count == last


def build_schedule(config: Config, manifest: pa.Table) -> Schedule:
    """The schedule of a configuration over a manifest.

    Raises:
        UsageError: the manifest has no video to train on.
    """
    splits, num_unlabelled = split_videos(manifest, config.data), 0
    labelled = np.asarray(manifest.column("label").is_valid())
    if config.task == "action" and labelled[splits.train].any():
        kept = Splits(splits.train[labelled[splits.train]], splits.val[labelled[splits.val]])
        num_unlabelled = len(splits.train) + len(splits.val) - len(kept.train) - len(kept.val)
        splits = kept
    clip = played_clip(config)
    num_frames, fps = frames_per_video(manifest), manifest.column("fps").to_numpy()
    fits = [config.task != "prp" or fits_every_rate(num_frames[row], clip, fps[row]) for row in splits.val]
    long_enough = np.asarray(fits, dtype=bool)
    assert config.train.global_batch_size == videos_per_step(config) * config.data.clip.clips_per_video
    return Schedule(
        seed=config.seed,
        epochs=config.train.epochs,
        val_every_epochs=config.train.val_every_epochs,
        batch_size=config.train.global_batch_size,
        clips_per_video=config.data.clip.clips_per_video,
        val_clips_per_video=config.data.val_clips_per_rate * len(clip.rates),
        train_videos=splits.train,
        val_videos=splits.val[long_enough],
        num_short_val_videos=int((~long_enough).sum()),
        num_unlabelled_videos=num_unlabelled,
    )
