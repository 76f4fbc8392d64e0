"""`bench pipeline`: clips per second of training, live and cached, of a plain PyTorch program, and of each part alone.

All arms use one manifest and one model (TMM on 7×7 cells, four ResNet3D blocks, 256 → 512), with steps of 4 clips of 8
frames at 224 px, or of 32 clips on a GPU. The arms take turns, and each result is the median of its rounds. `live` and
`cached` are real runs of `train` and use the rates that the epochs report. The plain program uses its best number of
DataLoader workers. `decode_only` decodes with `decode_cores` processes, one per core.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advise_ray.backend import process_env
from advise_ray.bench import decode
from advise_ray.bench.machine import machine
from advise_ray.bench.plain import best_num_workers, plain_clips_per_s
from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.writer import write_cache
from advise_ray.config import Config, load
from advise_ray.model.advise import build_advise
from advise_ray.training import metrics_lines
from advise_ray.training.batch_schedule import build_schedule
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.clip_reader import ClipReader
from advise_ray.training.device_feed import on_device
from advise_ray.training.learner import Learner
from advise_ray.training.trainer import train
from advise_ray.video.manifest import Videos, read_manifest

IFMS = ("open_clip:ViT-B-32", "open_clip:ViT-B-16", "timm:tf_efficientnet_lite0")
NUM_VIDEOS, DURATION_S = {"cpu": 8, "cuda": 96}, 4
CLIPS = {"cpu": 4, "cuda": 32}
LIVE_EPOCHS, CACHED_EPOCHS = 4, 24
"""Epochs of 8 steps (12 on a GPU). The first third does not count, because processes warm up."""
ROUNDS = 3
LEAST_S = 3.0
Arm = Callable[[], float]


def pipeline(
    on_arm: Callable[[str, str, float], None] = lambda ifm, arm, clips_per_s: None,
    ifms: tuple[str, ...] = IFMS,
    settings: tuple[str, ...] = (),
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure clips per second of every arm, for each image model with random weights.

    Args:
        settings: `key=value` settings for all arms, for example of the SFU.
        device: `cpu` or `cuda`, for the models of all arms.

    Returns:
        The output of `bench pipeline --json`: image model → `ARM_clips_per_s` → clips/s; `decode_cores`; and the keys
        of `Environment`.
    """
    process_env.use_cores(1)
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        number = NUM_VIDEOS[device]
        manifest = decode.make_manifest(Path(folder) / "videos", number, DURATION_S, number)
        for ifm in ifms:
            arms = _arms(ifm, manifest, Path(folder), settings, device)
            measured: dict[str, list[float]] = {name: [] for name in arms}
            for _ in range(ROUNDS):
                for name, arm in arms.items():
                    measured[name].append(arm())
                    on_arm(ifm, name, measured[name][-1])
            result[ifm] = {f"{name}_clips_per_s": statistics.median(values) for name, values in measured.items()}
    return {**result, "decode_cores": decode.processes(), **machine()}


def bench_config(ifm: str, manifest: Path, storage: Path, *settings: str) -> Config:
    """The configuration of an arm. It trains in bf16, the fastest precision for all arms."""
    return load(
        None,
        [
            f"data.manifest={manifest}",
            "data.val_fraction=0",
            "data.clip={num_frames: 8, frame_stride: 2, clips_per_video: 4, rates: [1, 2, 4]}",
            f"model.ifm={{name: '{ifm}', weights: none, precision: bf16}}",
            "model.sfu.spatial_size=7",
            "train={epochs: 20, global_batch_size: 4, precision: bf16, checkpoint_every_epochs: 1000}",
            f"storage.path={storage}",
            *settings,
            "pretext.masked_frames=0",  # the same loss in all arms
        ],
    )


def _arms(ifm: str, manifest: Path, folder: Path, settings: tuple[str, ...], device_type: str) -> dict[str, Arm]:
    storage, device = folder / ifm.replace(":", "-"), torch.device(device_type)
    on = (f"train.global_batch_size={CLIPS[device_type]}", f"train.use_gpu={str(device_type == 'cuda').lower()}")
    config = bench_config(ifm, manifest, storage, *on, *settings)
    cache = storage / "cache"
    write_cache(plan_cache(config, str(cache)))
    schedule = build_schedule(config, read_manifest(manifest))
    reader = ClipReader(config, Videos(read_manifest(manifest)))
    block = reader(next(schedule.batches()))
    learner = Learner(config, schedule, build_advise(config, 3), device)
    features = learner.features(on_device(block, device))
    rival = load(None, [*_flat(config), "model.kind=r3d50"])
    rival_learner = Learner(rival, schedule, build_advise(rival, 3), device)
    cached = replace(block, frames=None, draws=None, features=features.permute(0, 2, 3, 4, 1).half().cpu().numpy())
    numbers = itertools.count()
    run = itertools.count()
    num_clips = config.train.global_batch_size
    workers = best_num_workers(config, learner)

    def trained(name: str, epochs: int, *more: str) -> float:
        own = (f"tracking.run_name={name}-{next(run)}", f"train.epochs={epochs}", *more)
        return _epochs_clips_per_s(load(None, [*_flat(config), *own]))

    def steps(of: Learner, block: ClipBlock) -> float:
        return _per_s(num_clips, lambda: of.train_step(on_device(block, device), next(numbers)).tolist())

    return {
        "torch": lambda: plain_clips_per_s(config, learner, workers),
        "live": lambda: trained("live", LIVE_EPOCHS),
        "cached": lambda: trained("cached", CACHED_EPOCHS, f"data.features={cache}"),
        "decode_only": lambda: decode.loop_clips_per_s(config, whole=False),
        "ifm_only": lambda: _per_s(num_clips, lambda: learner.features(on_device(block, device)).sum().item()),
        "step_only": lambda: steps(learner, block),
        "tmm_only": lambda: steps(learner, cached),
        "r3d50": lambda: steps(rival_learner, block),
    }


def _flat(config: Config) -> list[str]:
    from advise_ray.config import flatten, overrides_of

    return overrides_of(flatten(config))


def _epochs_clips_per_s(config: Config) -> float:
    """Train, and return the median of the clip rates that the run reports, without its first epochs."""
    result = train(config)
    lines = metrics_lines.read(Path(result["run_dir"]) / "metrics.jsonl")
    rates = [line["values"]["rate/clips_per_s"] for line in metrics_lines.of_kind(lines, "epoch")]
    return statistics.median(rates[-(-len(rates) // 3) :])


def _per_s(num_clips: int, once: Callable[[], Any]) -> float:
    """Clips per second of a repeated operation, from the median of its times."""
    times: list[float] = []
    once()
    until_s = time.perf_counter() + LEAST_S
    while len(times) < 3 or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        once()
        times.append(time.perf_counter() - started_s)
    return num_clips / float(np.median(times))
