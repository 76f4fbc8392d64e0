"""Computes the clips of each batch of a run, from the first step to the last. Pure arithmetic.

    epoch 0: train, train, …, train, val, …, val │ epoch 1: train, …

One stream has the training batches of all epochs and, between them, the validation batches. Decoding continues across
the end of an epoch, so the workers never wait at its start. Every batch has the same size. If there are too few videos
for the last batch, clips of weight 0 fill it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import Config, played_clip, videos_per_step
from advise_ray.video.manifest import frames_per_video
from advise_ray.video.sampling import keyed_rng, which_fit_every_rate
from advise_ray.video.splits import Splits, split_videos


@dataclass(frozen=True)
class Batch:
    """One global batch of G clips.

    Attributes:
        train: True for a training batch, False for a validation batch.
        epoch: number of the epoch, from 0.
        step: number of optimizer steps before this batch.
        videos: int64[G], rows of the manifest.
        clips: int64[G], number of the clip within its video.
        weights: float32[G], 0 for clips that only fill the batch, else 1.
    """

    train: bool
    epoch: int
    step: int
    videos: NDArray[np.int64]
    clips: NDArray[np.int64]
    weights: NDArray[np.float32]

    def share(self, rank: int, num_workers: int) -> Batch:
        """One worker's part of the batch. All workers have equal parts."""
        size, left = divmod(len(self.videos), num_workers)
        assert not left
        part = slice(rank * size, (rank + 1) * size)
        return Batch(self.train, self.epoch, self.step, self.videos[part], self.clips[part], self.weights[part])

    def to_row(self) -> dict[str, Any]:
        """Convert to a row of Ray Data."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def from_row(row: dict[str, NDArray[Any]]) -> Batch:
        """Convert from a row of Ray Data, in which each array has a leading axis of 1."""
        train, epoch, step = (row[name][0] for name in ("train", "epoch", "step"))
        columns = (np.asarray(row[name][0]) for name in ("videos", "clips", "weights"))
        return Batch(bool(train), int(epoch), int(step), *columns)


@dataclass(frozen=True)
class Schedule:
    """All batches of a run.

    Attributes:
        train_videos: int32[n], rows of the manifest for training.
        val_videos: int32[m], rows of the manifest for validation. With `task: prp`: only if long enough for every rate.
        num_short_val_videos: number of validation videos left out because they are too short for some rate.
        num_unlabelled_videos: number of training and validation videos that `task: action` leaves out, without a label.
    """

    seed: int
    epochs: int
    val_every_epochs: int
    batch_size: int
    clips_per_video: int
    val_clips_per_video: int
    train_videos: NDArray[np.int32]
    val_videos: NDArray[np.int32]
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
        """Number of batches of one validation; 0 without validation videos."""
        return -(-len(self.val_videos) * self.val_clips_per_video // self.batch_size)

    def validates(self, epoch: int) -> bool:
        """Whether validation batches follow the training batches of this epoch."""
        return due(epoch + 1, self.val_every_epochs, self.epochs) and self.val_batches > 0

    def batches(self, start_step: int = 0, *, validation_first: bool = False) -> Iterator[Batch]:
        """Yield the batches from `start_step` on.

        Args:
            validation_first: if `start_step` is the first step of an epoch, start with the validation batches of the
                epoch before. By default that validation counts as done.
        """
        if validation_first and self.validates(last := start_step // self.steps_per_epoch - 1):
            yield from self._val_batches(last)
        for epoch in range(start_step // self.steps_per_epoch, self.epochs):
            yield from self._train_batches(epoch, start_step)
            if self.validates(epoch):
                yield from self._val_batches(epoch)

    def _train_batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, without those before `start_step`. Holds the order, int32[n]."""
        order = keyed_rng(self.seed, "order", epoch).permutation(self.train_videos)
        clips = np.tile(np.arange(self.clips_per_video), self.videos_per_step)
        first_step = epoch * self.steps_per_epoch
        for step in range(max(first_step, start_step), first_step + self.steps_per_epoch):
            videos, weights = _window(step - first_step, self.videos_per_step, len(order))
            repeated = order[videos].astype(np.int64).repeat(self.clips_per_video)
            yield Batch(True, epoch, step, repeated, clips, weights.repeat(self.clips_per_video))

    def _val_batches(self, epoch: int) -> Iterator[Batch]:
        step, each = (epoch + 1) * self.steps_per_epoch, self.val_clips_per_video
        for number in range(self.val_batches):
            places, weights = _window(number, self.batch_size, len(self.val_videos) * each)
            videos = self.val_videos[places // each].astype(np.int64)
            yield Batch(False, epoch, step, videos, places % each, weights)


def _window(number: int, size: int, total: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the places of batch `number`, int64[size], and their weights. After the last place, places repeat."""
    places = np.arange(number * size, (number + 1) * size)
    return places % total, (places < total).astype(np.float32)


def due(count: int, every: int, last: int) -> bool:
    """Whether an action that happens every `every` counts, and at count `last`, happens at `count` (from 1)."""
    return count % every == 0 or count == last


def build_schedule(config: Config, manifest: pa.Table) -> Schedule:
    """Build the schedule of a configuration for a manifest.

    Raises:
        UsageError: the manifest has no video for training.
    """
    splits, num_unlabelled = split_videos(manifest, config.data), 0
    labelled = np.asarray(manifest.column("label").is_valid())
    if config.task == "action" and labelled[splits.train].any():
        kept = Splits(splits.train[labelled[splits.train]], splits.val[labelled[splits.val]])
        num_unlabelled = len(splits.train) + len(splits.val) - len(kept.train) - len(kept.val)
        splits = kept
    clip = played_clip(config)
    long_enough = np.ones(len(splits.val), dtype=bool)
    if config.task == "prp":
        num_frames, fps = frames_per_video(manifest)[splits.val], manifest.column("fps").to_numpy()[splits.val]
        long_enough = which_fit_every_rate(num_frames, clip, fps)
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
