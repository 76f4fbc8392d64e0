"""Measures this machine's throughput rates on a manifest within a few seconds, for `predict`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from advise_ray.backend import process_env, session
from advise_ray.cache.compatibility import identify
from advise_ray.cache.identity import Identity
from advise_ray.config import Config, worker_counts
from advise_ray.cost.predict import Cost, Rates, predict, workload
from advise_ray.errors import TrainingError, VideoDecodeError
from advise_ray.model.advise import AdViSe
from advise_ray.training.batch_schedule import Schedule
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.clip_reader import ClipReader, DecodedFrames
from advise_ray.training.device_feed import on_device
from advise_ray.training.learner import Learner
from advise_ray.training.plan import Plan
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video, frames_per_video

LEAST_S = 1.5
"""Minimum time in seconds to measure each rate, in at least two repetitions, after a warm-up that does not count."""
DECODED_FRAMES = 150
"""Maximum number of frames of each video when whole videos are decoded."""


def estimate(plan: Plan, given: Rates | None = None) -> Cost | None:
    """Predict a plan's cost, live and cached, from given or measured rates. None for an R3D-50, which has no cache.

    Raises:
        TrainingError: see `measure_rates`.
    """
    config = plan.config
    if config.model.kind == "r3d50":
        return None
    cache = config.cache
    identity = plan.cached or identify(
        config, plan.model, plan.ifm_sha256, frame_step=cache.frame_step, views=cache.views
    )
    cores, use_gpu = session.available_cpus(), plan.shares.use_gpu
    rates = given or measure_rates(
        config, plan.schedule, plan.videos, plan.model, identity, cores=cores, use_gpu=use_gpu
    )
    frames = int(identity.num_kept(frames_per_video(plan.videos.table)).sum())
    return predict(workload(config, plan.schedule, identity, frames), rates)


def measure_rates(
    config: Config,
    schedule: Schedule,
    videos: Sequence[Video],
    model: AdViSe,
    identity: Identity,
    *,
    cores: float,
    use_gpu: bool,
) -> Rates:
    """Measure rates by decoding some videos and training some steps on them. The training changes the model's TMM.

    Raises:
        TrainingError: none of the tried videos can be decoded.
    """
    device = torch.device("cuda" if use_gpu else "cpu")
    if not use_gpu:
        process_env.use_cores(1)
    learner = Learner(config, schedule, model, device)
    pixels = DecodedFrames(config)
    reader = ClipReader(config, videos, pixels)
    batches = (
        batch
        for run in itertools.repeat(schedule)  # a short schedule can end before the rates are measured
        for batch in run.batches()
    )
    blocks: list[ClipBlock] = []

    def decode() -> float:
        blocks.append(reader(next(batches)))
        return float(blocks[-1].weights.sum())

    with pixels.decoder as decoder:
        decode_clips_per_s = _per_s(decode)
        wholes = _whole_videos(config, itertools.cycle(map(videos.__getitem__, schedule.train_videos)), decoder)
        decode_frames_per_s = _per_s(wholes)
    block = max(blocks, key=lambda block: float(block.weights.sum()))
    num_clips, num_frames = len(block.targets), config.data.clip.num_frames
    shape = (num_clips, num_frames, *identity.frame_shape)
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    cached = replace(block, frames=None, draws=None, features=features)
    steps = itertools.count()

    def encode() -> float:
        learner.features(on_device(block, device)).sum().item()  # waits for the device
        return float(num_clips * num_frames)

    def step() -> float:
        learner.train_step(on_device(cached, device), next(steps)).tolist()
        return float(num_clips)

    return Rates(
        decode_clips_per_s=decode_clips_per_s,
        decode_frames_per_s=decode_frames_per_s,
        ifm_frames_per_s=_per_s(encode),
        tmm_clips_per_s=_per_s(step),
        workers=worker_counts(config)[0],
        cores=cores,
        use_gpu=use_gpu,
    )


def _per_s(once: Callable[[], float]) -> float:
    once()
    done, started_s = 0.0, time.perf_counter()
    for number in itertools.count(1):
        done += once()
        elapsed_s = time.perf_counter() - started_s
        if (number >= 2 and elapsed_s >= LEAST_S) or elapsed_s >= 4 * LEAST_S:
            break
    if not done:
        raise TrainingError("none of the tried videos can be decoded; run `advise-ray data check` to see the reasons")
    return done / elapsed_s


def _whole_videos(config: Config, videos: Iterator[Video], decoder: DecodeProcess) -> Callable[[], float]:
    size = config.augment

    def decode() -> float:
        video = next(videos)
        frames = np.asarray(video.frames[:DECODED_FRAMES])
        try:
            decoder.decode(
                video.path,
                frames,
                height_px=size.resize_height_px,
                width_px=size.resize_width_px,
                **video.decoding,
            )
        except VideoDecodeError:
            return 0.0
        return float(len(frames))

    return decode
