"""What a run will do, worked out before anything starts: videos, steps, processes, memory. Writes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from advise_ray import runtime
from advise_ray.config import ClipConfig, Config
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.training import checkpoint
from advise_ray.training.pipeline import clip_bytes
from advise_ray.training.schedule import Schedule, build_schedule
from advise_ray.video.manifest import Video, check_videos_exist, named_classes, read_manifest, videos
from advise_ray.video.sampling import longest_span_frames

LEAST_CPUS = 0.25
"""The smallest share of a CPU that a process is given."""
ROUNDING = 1e-6
"""CPUs; shares such as 0.1 do not add up exactly."""


@dataclass(frozen=True)
class Shares:
    """The processes of a run and what each reserves."""

    num_workers: int
    cpus_per_worker: float
    num_decode_actors: int
    cpus_per_decode_actor: float
    use_gpu: bool


@dataclass(frozen=True)
class Plan:
    """A run that can start."""

    config: Config
    schedule: Schedule
    videos: list[Video]
    classes: list[str]
    shares: Shares
    model: AdViSe
    ifm_sha256: str
    manifest_sha256: str

    def summary(self) -> dict[str, Any]:
        """What `--dry-run` prints; names carry their units."""
        config, schedule, shares = self.config, self.schedule, self.shares
        return {
            "train_videos": len(schedule.train_videos),
            "val_videos": len(schedule.val_videos),
            "val_videos_too_short": schedule.num_short_val_videos,
            "classes": len(self.classes),
            "clips_per_step": schedule.batch_size,
            "clips_per_worker_and_step": schedule.batch_size // shares.num_workers,
            "steps_per_epoch": schedule.steps_per_epoch,
            "epochs": schedule.epochs,
            "steps": schedule.total_steps,
            "val_clips": len(schedule.val_videos) * schedule.val_clips_per_video,
            "workers": shares.num_workers,
            "device": "cuda" if shares.use_gpu else "cpu",
            "cpus_per_worker": shares.cpus_per_worker,
            "decode_actors": shares.num_decode_actors,
            "cpus_per_decode_actor": shares.cpus_per_decode_actor,
            "parameters_trained": self.parameters_trained,
            "parameters_frozen": sum(p.numel() for p in self.model.ifm.parameters()),
            "ifm_sha256": self.ifm_sha256,
            "clip_bytes": clip_bytes(config),
            "clips_in_flight_bytes": config.data.max_clips_in_flight * clip_bytes(config),
            "notes": self.notes(),
        }

    @property
    def parameters_trained(self) -> int:
        return sum(parameter.numel() for parameter in self.model.temporal.trained_parameters())

    def notes(self) -> list[str]:
        """What a person should know before the run starts."""
        schedule, model, notes = self.schedule, self.config.model, []
        if schedule.num_short_val_videos:
            notes.append(
                f"{schedule.num_short_val_videos} validation videos are {_too_short(self.config.data.clip)} "
                "and are left out" + ("" if schedule.val_batches else "; none is long enough: val/top1 will be absent")
            )
        elif not schedule.val_batches:
            notes.append("there are no validation videos (data.val_split, data.val_fraction): val/top1 will be absent")
        if model.ifm.compile and not self.shares.use_gpu:
            notes.append("model.ifm.compile: on CPUs this makes most image models slower")
        if model.freeze_tmm and model.init_from is None and (model.kind, model.tmm.arch) != ("advise", "none"):
            notes.append(
                "model.freeze_tmm without model.init_from: the temporal module stays as it was drawn, at random"
            )
        return notes


def _too_short(clip: ClipConfig) -> str:
    if clip.sample_fps is None:
        return f"shorter than the {longest_span_frames(clip)} frames that the fastest rate takes"
    span_s = longest_span_frames(clip, 1000.0) / 1000.0
    return (
        f"shorter than the {span_s:.3g} s that the fastest rate takes, or have fewer than "
        f"{clip.sample_fps / clip.rates[0]:.3g} frames/s"
    )


def make_plan(config: Config, *, begun: bool = False) -> Plan:
    """Work out everything that can be known before the run starts.

    Args:
        begun: the run has a checkpoint to go on from: `model.init_from` has done its part.

    Raises:
        UsageError, ConfigError: what is wrong with the manifest, the weights, the model or the CPUs asked for.
    """
    if config.data.manifest is None:
        raise ConfigError(["data.manifest: required; make one with `advise-ray data index`, or use `--videos DIR`"])
    manifest = read_manifest(Path(config.data.manifest))
    manifest_sha256 = hashlib.sha256(Path(config.data.manifest).read_bytes()).hexdigest()
    schedule = build_schedule(config, manifest)
    check_videos_exist(manifest, schedule.train_videos)
    shares = share_cpus(config, runtime.available_cpus(), runtime.available_gpus())
    classes = rate_names(config) if config.task == "prp" else class_names(manifest, schedule)
    model = build_advise(config, len(classes))
    ifm_sha256 = model.ifm.hash_weights()
    if config.model.init_from is not None and not begun:
        checkpoint.init_tmm(Path(config.model.init_from), config, model.temporal.tmm, ifm_sha256)
    return Plan(config, schedule, videos(manifest), classes, shares, model, ifm_sha256, manifest_sha256)


def rate_names(config: Config) -> list[str]:
    """What the head of PRP tells apart."""
    return [f"×{rate:g}" for rate in config.data.clip.rates]


def class_names(manifest: pa.Table, schedule: Schedule) -> list[str]:
    """Classes of a labelled manifest, over all of its splits, in the order of their labels.

    Raises:
        UsageError: there are videos without a label, or only one class.
    """
    labels = manifest.column("label")
    used = labels.take(pa.array([*schedule.train_videos, *schedule.val_videos]))
    if used.null_count:
        raise UsageError(
            f"data.manifest: task=action needs labels, and {used.null_count} of {len(used)} videos have none; index "
            "them with the data set's lists, or from folders named by class"
        )
    names = named_classes(manifest)
    if len(names) < 2 or pc.min(labels).as_py() < 0:
        raise UsageError(
            "data.manifest: task=action needs labels from 0 on, of two classes or more; index the data set with its "
            "lists"
        )
    return names


def share_cpus(config: Config, cpus: float, gpus: float) -> Shares:
    """Split the CPUs there are among workers and decode actors; what the configuration fixes is kept.

    Left to choose, there is a decode actor for each CPU that GPU workers leave, and one for every four CPUs where the
    workers compute on CPUs: there the image model takes nearly all the time.

    Raises:
        UsageError: there is less than 0.25 CPU for each process, or too few GPUs.
    """
    workers, data = config.train.num_workers, config.data
    use_gpu = gpus >= workers if config.train.use_gpu is None else config.train.use_gpu
    if use_gpu and gpus < workers:
        raise UsageError(
            f"train.num_workers: {workers} workers need as many GPUs, there are {gpus:g}; "
            "lower it or set train.use_gpu=false"
        )
    least_worker, least_actor = _least_cpus(config)
    room = int((cpus - workers * least_worker) / least_actor + ROUNDING)
    wanted = int(cpus - workers if use_gpu else cpus / 4)
    actors = data.num_decode_actors or max(1, min(wanted, room))
    if actors > room:
        least = workers * least_worker + actors * least_actor
        raise UsageError(
            f"train.num_workers: {workers} workers and {actors} decode actors need {least:g} CPUs, there are {cpus:g}; "
            f"{_what_fits(config, cpus)}"
        )
    equal_share = cpus / (workers + actors)
    spare = cpus - workers * (config.train.cpus_per_worker or min(equal_share, 1.0))
    per_actor = data.cpus_per_decode_actor or _floor(min(1.0, spare / actors))
    per_worker = config.train.cpus_per_worker or _floor((cpus - actors * per_actor) / workers)
    return Shares(workers, per_worker, actors, per_actor, use_gpu)


def _least_cpus(config: Config) -> tuple[float, float]:
    """CPUs that a worker and a decode actor cannot do without."""
    return config.train.cpus_per_worker or LEAST_CPUS, config.data.cpus_per_decode_actor or LEAST_CPUS


def _what_fits(config: Config, cpus: float) -> str:
    least_worker, least_actor = _least_cpus(config)
    workers = int((cpus - least_actor) / least_worker + ROUNDING)
    if workers < 1:
        return "not even one worker fits beside a decode actor"
    actors = int((cpus - least_worker) / least_actor + ROUNDING)
    return f"at most {workers} worker(s) beside one decode actor, or {actors} decode actor(s) beside one worker"


def _floor(cpus: float) -> float:
    """Down to hundredths, so that the sum of the shares never exceeds the whole."""
    return int(cpus * 100 + ROUNDING) / 100
