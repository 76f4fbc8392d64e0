"""The rival of `bench pipeline`: what one writes with PyTorch alone, a DataLoader over decord, and the same model."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from decord import VideoReader, cpu
from torch.utils.data import DataLoader, Dataset

from advise_ray.config import Config, played_clip
from advise_ray.training.loop import Learner
from advise_ray.video import augment
from advise_ray.video.manifest import Video, read_manifest, videos
from advise_ray.video.sampling import keyed_rng, plan_clips

STEPS, WARM_UP_STEPS = 8, 3


class Clips(Dataset[dict[str, np.ndarray]]):
    """The clips of a video, decoded at their size: only the frames that are wanted, in one thread."""

    def __init__(self, config: Config, every: list[Video]) -> None:
        self.config, self.videos = config, every

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        video, size = self.videos[number % len(self.videos)], self.config.augment
        rng = keyed_rng("plain", number)
        clips = plan_clips(video.num_frames, played_clip(self.config), rng)
        wanted = np.stack([clip.frame_indices for clip in clips])
        reader = VideoReader(
            video.path, ctx=cpu(0), width=size.resize_width_px, height=size.resize_height_px, num_threads=1
        )
        unique, places = np.unique(wanted, return_inverse=True)
        return {
            "frames": reader.get_batch(unique).asnumpy()[places.reshape(wanted.shape)],
            "draws": np.stack([augment.draw(size, rng) for _ in clips]),
            "targets": np.asarray([clip.rate_index for clip in clips]),
            "weights": np.ones(len(clips), dtype=np.float32),
        }


def plain_clips_per_s(config: Config, learner: Learner) -> float:
    """Clips per second of training, with as many DataLoader workers as serve best."""
    every = videos(read_manifest(Path(str(config.data.manifest))))
    cores = len(os.sched_getaffinity(0))
    return max(_clips_per_s(config, every, learner, workers) for workers in sorted({1, cores}))


def _clips_per_s(config: Config, every: list[Video], learner: Learner, workers: int) -> float:
    per_step = config.train.global_batch_size // config.data.clip.clips_per_video
    loader = DataLoader(
        Clips(config, every),
        batch_size=per_step,
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=_collate,
        multiprocessing_context="forkserver",
    )
    times = [time.perf_counter()]
    for step, block in enumerate(itertools.islice(loader, WARM_UP_STEPS + STEPS)):
        learner.train_step(block, step).tolist()
        times.append(time.perf_counter())
    return config.train.global_batch_size / statistics.median(np.diff(times[WARM_UP_STEPS:]).tolist())


def _collate(items: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """A batch as `Learner` takes it, with its leading axis of 1."""
    return {name: np.concatenate([item[name] for item in items])[None] for name in items[0]}
