"""Plans a run before it starts: videos, steps, processes, memory. Writes nothing."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from advise_ray import tracking
from advise_ray.backend import nodes
from advise_ray.backend.processes import Shares
from advise_ray.cache.compatibility import match
from advise_ray.cache.identity import Identity
from advise_ray.config import ClipConfig, Config
from advise_ray.errors import UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.ifm import IFM
from advise_ray.model.precision import notes_for_cpu
from advise_ray.training import checkpoint
from advise_ray.training.batch_schedule import Schedule, build_schedule
from advise_ray.training.clip_reader import clip_bytes
from advise_ray.training.worker_spec import WorkerSpec, streams
from advise_ray.video.manifest import Videos, check_videos_exist, frames_per_video
from advise_ray.video.pool import hash_manifests, hash_videos, read_videos
from advise_ray.video.sampling import longest_span_frames, span_frames, stride_frames, which_play_at_two_rates
from advise_ray.video.splits import held_out_split, named_classes


@dataclass(frozen=True)
class Plan:
    """A complete and checked plan of a run."""

    config: Config
    schedule: Schedule
    videos: Videos
    classes: list[str]
    shares: Shares
    model: AdViSe
    ifm_sha256: str
    manifest_sha256: str
    cached: Identity | None = None
    """Identity of the feature cache from which the run reads its clips; None if it decodes them."""
    val_split: str | None = None
    """The split for validation; None: a part of the training videos."""

    def worker_spec(self, run_dir: Path, *, videos: Any = None, weights: Any = None) -> WorkerSpec:
        """The specification for the workers. For workers in other processes, `videos` and `weights` are ObjectRefs."""
        return WorkerSpec(
            config=self.config,
            schedule=self.schedule,
            classes=self.classes,
            run_dir=run_dir,
            videos=videos,
            weights=weights,
            ifm_sha256=self.ifm_sha256,
            manifest_sha256=self.manifest_sha256,
            use_gpu=self.shares.use_gpu,
            cached=self.cached,
        )

    def weights(self) -> dict[str, torch.Tensor]:
        """State dict for the workers. With a feature cache it has no weights of the image model."""
        state = self.model.state_dict()
        return state if self.cached is None else {name: value for name, value in state.items() if name[:4] != "ifm."}

    def summary(self) -> dict[str, Any]:
        """The output of `--dry-run`. The keys include the units."""
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
            "clip_bytes": self.clip_bytes,
            "mlflow": tracking.destination(config),
            "clips_in_flight_bytes": config.data.max_clips_in_flight * self.clip_bytes,
            "notes": self.notes(),
        }

    @property
    def clip_bytes(self) -> int:
        """Bytes of one decoded or cached clip, as sent to a worker."""
        if self.cached is None:
            return clip_bytes(self.config)
        return self.config.data.clip.num_frames * self.cached.frame_bytes

    @property
    def parameters_trained(self) -> int:
        return sum(parameter.numel() for parameter in self.model.temporal.trained_parameters())

    @functools.cached_property
    def data_sets(self) -> list[tracking.DataSet]:
        """The videos that the run trains and validates on."""
        rows: dict[tracking.Context, NDArray[np.integer]] = {
            "training": self.schedule.train_videos,
            "validation": self.schedule.val_videos,
        }
        return tracking.data_sets(self.config.data, self.manifest_sha256, self.videos, rows)

    def notes(self) -> list[str]:
        """Notes for the user before the run starts."""
        schedule, model, notes = self.schedule, self.config.model, []
        if self.val_split != self.config.data.val_split:
            notes.append(
                f"no video has split {self.config.data.val_split!r} (data.val_split): using {self.val_split!r} instead"
            )
        if schedule.num_short_val_videos:
            notes.append(
                f"leaving out {_videos(schedule.num_short_val_videos, 'validation ')} "
                + _too_short(self.config.data.clip)
                + ("" if schedule.val_batches else "; none is long enough: val/top1 will be absent")
            )
        elif not schedule.val_batches:
            notes.append("there are no validation videos (data.val_split, data.val_fraction): val/top1 will be absent")
        if len(schedule.train_videos) < schedule.videos_per_step:
            notes.append(
                f"a step takes {schedule.videos_per_step} videos, but only {len(schedule.train_videos)} can be trained "
                "on: copies with weight 0 fill each batch; a smaller train.global_batch_size saves time"
            )
        if schedule.num_unlabelled_videos:
            notes.append(f"leaving out {_videos(schedule.num_unlabelled_videos)} without a label")
        wanted, actors = self.config.data.num_decode_actors, self.shares.num_decode_actors
        if actors % self.shares.num_workers:
            notes.append(
                f"data.num_decode_actors: {actors} for {self.shares.num_workers} workers, each with actors of its own: "
                "the run is as fast as the worker with the fewest; use a multiple"
            )
        elif actors and wanted and wanted < self.shares.num_workers:
            notes.append(f"data.num_decode_actors: {actors} instead of {wanted}: each worker has actors of its own")
        if self.cached is not None and self.cached.views == 1:
            notes.append("the feature cache has one view of each video: training uses no augmentation")
        if not self.shares.use_gpu:
            formats: dict[str, str] = {"train.precision": self.config.train.precision}
            if model.kind == "advise" and self.cached is None:
                formats["model.ifm.precision"] = model.ifm.precision
            notes += notes_for_cpu(formats)
        if model.ifm.compile and not self.shares.use_gpu:
            notes.append("model.ifm.compile: on CPUs this makes most image models slower")
        if model.freeze_tmm and model.init_from is None and (model.kind, model.tmm.arch) != ("advise", "none"):
            notes.append(
                "model.freeze_tmm without model.init_from: the temporal module keeps its random initial weights"
            )
        return notes


def _videos(count: int, kind: str = "") -> str:
    return f"{count} {kind}video" + ("" if count == 1 else "s")


def _too_short(clip: ClipConfig) -> str:
    """Which validation videos are left out."""
    if clip.sample_fps is None:
        return f"shorter than {longest_span_frames(clip)} frames, the span of a clip at the fastest rate"
    span_s = longest_span_frames(clip, 1000.0) / 1000.0
    return (
        f"shorter than {span_s:.3g} s, the span of a clip at the fastest rate, or with fewer than "
        f"{clip.sample_fps / clip.rates[0]:.3g} frames/s"
    )


def make_plan(config: Config, *, begun: bool = False, ifm: IFM | None = None, shares: Shares | None = None) -> Plan:
    """Plan a run, and check everything that can be checked before it starts.

    Args:
        begun: the run resumes from a checkpoint, so `model.init_from` is not loaded again.
        ifm: see `build_advise`.
        shares: the shares of a run in this process. If None, they are planned for Ray's nodes and those it may add.

    Raises:
        UsageError, ConfigError: the manifest, the weights, the model or the requested CPUs or GPUs are not usable.
    """
    manifest = read_videos(config.data)
    thread = ThreadPoolExecutor(1, thread_name_prefix="hash")  # it takes as long as the rest of the plan
    hashing = thread.submit(hash_videos, manifest)
    thread.shutdown(wait=False)
    schedule = build_schedule(config, manifest)
    if config.data.features is None:
        check_videos_exist(manifest, schedule.train_videos)
    if config.task == "prp":
        _refuse_one_rate(config, manifest, schedule)
    classes = rate_names(config) if config.task == "prp" else class_names(manifest, schedule)
    model = build_advise(config, len(classes), ifm)
    ifm_sha256 = model.ifm.hash_weights()
    if config.model.init_from is not None and not begun:
        checkpoint.init_tmm(Path(config.model.init_from), config, model.temporal, ifm_sha256)
    shares = shares or nodes.plan(config, decodes=streams(config))
    every, cached = Videos(manifest), None
    if config.data.features is not None:
        used = np.concatenate([schedule.train_videos, schedule.val_videos])
        cached, every = match(config, model, ifm_sha256, every, used)
    val_split = held_out_split(manifest, config.data, config.data.val_split)
    return Plan(config, schedule, every, classes, shares, model, ifm_sha256, hashing.result(), cached, val_split)


def refuse_other_manifest(plan: Plan, last: Path | None) -> None:
    """Raise UsageError if a run would resume from checkpoint `last` with a manifest that has changed."""
    if last is None:
        return
    held = checkpoint.read_state(last).manifest_sha256
    # Checkpoints of earlier versions have the hash of the manifest's file, or none.
    if held not in ("", plan.manifest_sha256) and held != hash_manifests(plan.config.data):
        raise UsageError(
            f"--resume: {_names(plan.config)} has changed since the run began, so the order of the clips would "
            "differ; start a new run, or restore the manifest"
        )


def _names(config: Config) -> str:
    return ", ".join(map(str, config.data.manifests))


def _refuse_one_rate(config: Config, manifest: pa.Table, schedule: Schedule) -> None:
    """Raise UsageError if no training video is long enough for two rates: there would be nothing to learn."""
    clip, frames, fps = config.data.clip, frames_per_video(manifest), manifest.column("fps").to_numpy()
    rows = schedule.train_videos
    if which_play_at_two_rates(frames[rows], clip, fps[rows]).any():
        return
    longest = rows[int(np.argmax(frames[rows]))]
    stride = stride_frames(clip, fps[longest]) * clip.rates[1] * (1 - clip.rate_jitter)
    raise UsageError(
        f"data.clip: no training video can be played at more than one of the rates; the longest has {frames[longest]} "
        f"frames, and ×{clip.rates[1]:g} takes {span_frames(clip.num_frames, max(1.0, stride))}; lower num_frames, "
        "frame_stride or rates (or raise sample_fps), or use longer videos"
    )


def rate_names(config: Config) -> list[str]:
    """The class names of playback-rate prediction, such as `×2`."""
    return [f"×{rate:g}" for rate in config.data.clip.rates]


def class_names(manifest: pa.Table, schedule: Schedule) -> list[str]:
    """The class names of a labelled manifest, from all of its splits, in the order of the labels.

    Raises:
        UsageError: a training or validation video has no label, or there is only one class.
    """
    labels = manifest.column("label")
    used = np.asarray(labels.is_valid())[np.concatenate([schedule.train_videos, schedule.val_videos])]
    if not used.all():
        raise UsageError(
            f"data.manifest: task=action needs labels, and {(~used).sum()} of {len(used)} videos have none; index "
            "them with the data set's lists, or from folders named by class"
        )
    names = named_classes(manifest)
    if len(names) < 2 or pc.min(labels).as_py() < 0:
        raise UsageError(
            "data.manifest: task=action needs labels from 0 on, of two classes or more; index the data set with its "
            "lists"
        )
    return names
