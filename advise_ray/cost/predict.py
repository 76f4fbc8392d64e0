"""Predicts the cost of a run, live and from a feature cache, from rates that were measured or are given.

If workers have GPUs, decoding runs on the CPUs at the same time, and the slower of the two sets the pace. On CPUs, all
work shares the cores, and the times add up. A validation clip costs a third of a training clip's step, because it needs
no backward pass. The prediction does not include the start of the processes, about 20 s per run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import yaml

from advise_ray.cache.identity import Identity
from advise_ray.config import Config
from advise_ray.errors import UsageError
from advise_ray.training.batch_schedule import Schedule


@dataclass(frozen=True)
class Rates:
    """Throughput rates of the hardware.

    Attributes:
        decode_clips_per_s: training clips that one core decodes per second.
        decode_frames_per_s: frames of whole videos that one core decodes per second.
        ifm_frames_per_s: frames that one worker encodes per second (image model, SFU and augmentation).
        tmm_clips_per_s: clips that one worker trains on per second, from features.
        read_bytes_per_s: bytes that all workers read from the cache per second; infinite if the cache is in memory.
        workers, cores: number of workers and cores. Without GPUs, a worker's rates are measured with all cores.
    """

    decode_clips_per_s: float
    decode_frames_per_s: float
    ifm_frames_per_s: float
    tmm_clips_per_s: float
    workers: int
    cores: float
    use_gpu: bool
    read_bytes_per_s: float = math.inf


@dataclass(frozen=True)
class Workload:
    """The amount of work of a run, in clips and frames."""

    train_clips: int
    """Training clips per epoch."""
    val_clips: int
    """Clips per validation."""
    epochs: int
    validations: int
    frames_per_clip: int
    cached_frames: int
    """Frames to cache, of all videos of the manifest."""
    views: int
    frame_bytes: int
    """Bytes of one cached frame in one view."""

    @property
    def cache_bytes(self) -> int:
        return self.cached_frames * self.views * self.frame_bytes


def workload(config: Config, schedule: Schedule, identity: Identity, cached_frames: int) -> Workload:
    """The workload of a run whose cache has this identity."""
    return Workload(
        train_clips=len(schedule.train_videos) * schedule.clips_per_video,
        val_clips=len(schedule.val_videos) * schedule.val_clips_per_video,
        epochs=schedule.epochs,
        validations=sum(schedule.validates(epoch) for epoch in range(schedule.epochs)),
        frames_per_clip=config.data.clip.num_frames,
        cached_frames=cached_frames,
        views=identity.views,
        frame_bytes=identity.frame_bytes,
    )


def read_rates(path: Path) -> Rates:
    """Read the rates of another machine from a YAML mapping with the field names of `Rates`.

    Raises:
        UsageError: every problem of the file.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"--rates: {path} cannot be read: {' '.join(str(error).split())}") from None
    names = {field.name for field in fields(Rates)}
    needed = names - {"read_bytes_per_s"}
    given = given if isinstance(given, dict) else {}
    problems = [f"--rates: {name} is missing" for name in sorted(needed - given.keys())]
    problems += [
        f"--rates: {name} is unknown; the names are {', '.join(sorted(names))}" for name in given.keys() - names
    ]
    problems += [
        f"--rates: {name} must be {'true or false' if name == 'use_gpu' else 'a number above 0'}, got {value!r}"
        for name, value in given.items()
        if name in names and not _fits(name, value)
    ]
    if problems:
        raise UsageError("\n".join(problems))
    return Rates(**given)


def _fits(name: str, value: Any) -> bool:
    if name == "use_gpu" or isinstance(value, bool):
        return name == "use_gpu" and isinstance(value, bool)
    return isinstance(value, int | float) and value > 0


class Cost(TypedDict):
    """The predicted cost of a run: the value of `cost` that `--dry-run --json` prints.

    Attributes:
        live_hours, live_epoch_s: hours of the run, and seconds of an epoch, if each epoch decodes the clips.
        cached_hours, cached_epoch_s: the same from a feature cache, without the time to write the cache.
        cache_hours, cache_bytes: hours to write the whole cache, and its size.
        cache_pays_from_epoch: number of epochs from which the cache saves time. None if it never does.
        decode_cores_per_worker: number of decoding cores that keep one worker busy, without a cache.
        rates: the fields of `Rates` that the prediction uses. None instead of infinity.
    """

    live_hours: float
    live_epoch_s: float
    cached_hours: float
    cached_epoch_s: float
    cache_hours: float
    cache_bytes: int
    cache_pays_from_epoch: int | None
    decode_cores_per_worker: float
    rates: dict[str, float | None]


def predict(work: Workload, rates: Rates) -> Cost:
    """Predict the cost of a run from its amount of work."""
    live_s = _run_s(work, rates, cached=False)
    cached_s = _run_s(work, rates, cached=True)
    cache_s = _cache_s(work, rates)
    saved_s = (live_s - cached_s) / work.epochs
    step_s = work.frames_per_clip / rates.ifm_frames_per_s + 1 / rates.tmm_clips_per_s
    return {
        "live_hours": live_s / 3600,
        "live_epoch_s": live_s / work.epochs,
        "cached_hours": cached_s / 3600,
        "cached_epoch_s": cached_s / work.epochs,
        "cache_hours": cache_s / 3600,
        "cache_bytes": work.cache_bytes,
        "cache_pays_from_epoch": math.ceil(cache_s / saved_s) if saved_s > 0 else None,
        "decode_cores_per_worker": 1 / step_s / rates.decode_clips_per_s,
        "rates": {name: None if value == math.inf else value for name, value in asdict(rates).items()},
    }


def _run_s(work: Workload, rates: Rates, *, cached: bool) -> float:
    clips = work.epochs * work.train_clips + work.validations * work.val_clips
    steps = work.epochs * work.train_clips + work.validations * work.val_clips / 3
    compute_s = steps / rates.tmm_clips_per_s / rates.workers
    if cached:
        read_s = clips * work.frames_per_clip * work.frame_bytes / rates.read_bytes_per_s
        return max(compute_s, read_s)
    compute_s += clips * work.frames_per_clip / rates.ifm_frames_per_s / rates.workers
    return _combined_s(compute_s, clips / rates.decode_clips_per_s, rates)


def _cache_s(work: Workload, rates: Rates) -> float:
    compute_s = work.cached_frames * work.views / rates.ifm_frames_per_s / rates.workers
    return _combined_s(compute_s, work.cached_frames / rates.decode_frames_per_s, rates)


def _combined_s(compute_s: float, decode_core_s: float, rates: Rates) -> float:
    """Time in seconds of computing and decoding together."""
    if rates.use_gpu:
        return max(compute_s, decode_core_s / max(rates.cores - rates.workers, 1))
    # The rates were measured with one worker on all cores; now each worker has its share of the cores.
    return compute_s * rates.workers + decode_core_s / rates.cores
