"""The baseline of `bench pipeline`: a plain PyTorch program with a DataLoader, decord and the same model."""

from __future__ import annotations

import itertools
import os
import time

import numpy as np
from decord import VideoReader, cpu
from torch.utils.data import DataLoader, Dataset

from advise_ray.config import Config, played_clip
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.device_feed import on_device
from advise_ray.training.learner import Learner
from advise_ray.video import augment_draws
from advise_ray.video.manifest import Video, Videos
from advise_ray.video.pool import read_videos
from advise_ray.video.sampling import keyed_rng, plan_clips

STEPS, WARM_UP_STEPS = 16, 8


class Clips(Dataset[ClipBlock]):
    """A data set of the clips of each video. Decodes only the needed frames, at the needed size, in one thread."""

    def __init__(self, config: Config, every: list[Video]) -> None:
        self.config, self.videos = config, every

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, number: int) -> ClipBlock:
        video, size = self.videos[number % len(self.videos)], self.config.augment
        rng = keyed_rng("plain", number)
        clips = plan_clips(video.num_frames, played_clip(self.config), rng)
        wanted = np.stack([clip.frame_indices for clip in clips])
        reader = VideoReader(
            video.path, ctx=cpu(0), width=size.resize_width_px, height=size.resize_height_px, num_threads=1
        )
        unique, places = np.unique(wanted, return_inverse=True)
        return ClipBlock(
            targets=np.asarray([clip.rate_index for clip in clips], np.int64),
            weights=np.ones(len(clips), dtype=np.float32),
            frames=reader.get_batch(unique).asnumpy()[places.reshape(wanted.shape)],
            draws=np.stack([augment_draws.draw(size, rng) for _ in clips]),
        )


def best_num_workers(config: Config, learner: Learner) -> int:
    """The best number of DataLoader workers. Each is timed once: the best of several timings would be biased."""
    tried = {workers: plain_clips_per_s(config, learner, workers) for workers in (1, len(os.sched_getaffinity(0)))}
    return max(tried, key=lambda workers: tried[workers])


def plain_clips_per_s(config: Config, learner: Learner, workers: int) -> float:
    """Clips per second of training over all steps after the warm-up, timed like the epochs of `train`."""
    every = list(Videos(read_videos(config.data)))
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
        learner.train_step(on_device(block, learner.device), step).tolist()
        times.append(time.perf_counter())
    return config.train.global_batch_size * STEPS / (times[-1] - times[WARM_UP_STEPS])


def _collate(items: list[ClipBlock]) -> ClipBlock:
    """Build a batch as `Learner` takes it."""
    names = ("targets", "weights", "frames", "draws")
    targets, weights, frames, draws = (np.concatenate([getattr(item, name) for item in items]) for name in names)
    return ClipBlock(targets, weights, frames, draws)
