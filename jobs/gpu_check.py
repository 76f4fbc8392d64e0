"""Checks on one GPU what the CPUs cannot: that a step never waits, its time and memory against an R3D-50, a live run.

    python jobs/gpu_check.py --out gpu.json
    python jobs/gpu_check.py --out cpu.json --device cpu --quick

The cheapest check that could fail comes first. A check that raises is recorded, and the next one runs. After each check
the file is written again, so that nothing is lost if the time ends. `--budget-s` skips the checks that would begin
after it. `--quick` runs every check with tiny models, where a failed comparison means nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from advise_ray.backend import process_env  # before torch is imported

os.environ.update(process_env.ENVIRONMENT | os.environ)

import click
import numpy as np
import torch

from advise_ray.bench import decode
from advise_ray.bench import step as bench_step
from advise_ray.bench.machine import machine
from advise_ray.bench.step_time import Features, build_learner, measure, random_block, seconds_per_step, step_config
from advise_ray.model import augment
from advise_ray.model.chunks import GPU_CHUNKS
from advise_ray.model.ifm import build_ifm
from advise_ray.training import metrics_lines
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.device_feed import DeviceFeed, on_device
from advise_ray.training.learner import Learner
from advise_ray.training.trainer import train
from advise_ray.video.augment_draws import draw
from advise_ray.video.sampling import keyed_rng

Found = dict[str, Any]
"""What a check measures. `passed` is whether its condition holds; without a condition it is missing."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of the checks: those of the paper, or tiny ones."""

    device: torch.device
    ifm: str = bench_step.VIT_B_16
    others: tuple[str, ...] = (bench_step.VIT_B_32, bench_step.VIT_L_14)
    settings: tuple[str, ...] = ()
    clips: int = 32
    many_clips: int = 128
    warm_up: int = 5
    steps: int = 10
    videos: int = 96
    epochs: int = 6

    def learner(self, features: Features, clips: int) -> tuple[Learner, ClipBlock]:
        """A model of AdViSe, and a block with the augmentation of training."""
        config = step_config("advise", self.ifm, clips, "bf16", *self.settings)
        learner = build_learner(config, features, self.device)
        block = random_block(learner, features)
        if features == "live":
            draws = np.stack([draw(config.augment, keyed_rng("draw", number)) for number in range(clips)])
            block = dataclasses.replace(block, draws=draws)
        return learner, block

    def cost(self, kind: str, features: Features, clips: int) -> Found:
        how = (features, self.device.type, self.warm_up, self.steps, self.settings)
        if cost := measure(kind, self.ifm, clips, "bf16", *how):
            return dict(cost)
        raise MemoryError(f"{kind}, {clips} clips: not enough memory on the GPU")

    def seconds(self, run: Callable[[], Any]) -> float:
        """Mean seconds of a call, without the first ones."""
        for _ in range(self.warm_up):
            run()
        return self.once(lambda: [run() for _ in range(self.steps)]) / self.steps

    def once(self, run: Callable[[], Any]) -> float:
        """Seconds of a call, until the device has done its work."""
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        wait()
        started_s = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - started_s

    def on_waiting(self, what: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode(what)


TINY = (
    "augment={resize_height_px: 48, resize_width_px: 64, crop_size_px: 32}",
    "model.sfu.spatial_size=2",
    "model.tmm={num_blocks: 1, inner_dim: 8, out_dim: 16}",
    "data.clip.num_frames=4",
)


def quick(device: torch.device) -> Scale:
    """Sizes with which each check takes seconds on a CPU."""
    return Scale(device, "timm:test_vit", ("timm:test_efficientnet",), TINY, 4, 8, 1, 1, videos=8, epochs=2)


def no_waiting(scale: Scale) -> Found:
    """A step and a validation step, live and cached, with torch's error for every wait."""
    for features in ("live", "cached"):
        learner, block = scale.learner(features, scale.clips)
        given = on_device(block, scale.device)
        confusion = torch.zeros(4, 4, device=scale.device)
        for number in range(2):  # choose chunks and kernels
            learner.train_step(given, number)
            learner.val_step(given, confusion)
        scale.on_waiting("error")
        try:
            learner.train_step(given, 2)
            learner.val_step(given, confusion)
        finally:
            scale.on_waiting("default")
    return {"passed": True}


def feed_is_right(scale: Scale) -> Found:
    """Blocks that are copied while the device computes give the losses of blocks that are copied before."""

    def losses(ahead: bool) -> list[float]:
        learner, block = scale.learner("cached", scale.clips)
        features = block.features
        blocks = (dataclasses.replace(block, features=features + np.float16(number)) for number in range(8))
        moved = DeviceFeed(blocks, scale.device) if ahead else [on_device(each, scale.device) for each in blocks]
        return [float(numbers[0]) for numbers in [learner.train_step(each, at) for at, each in enumerate(moved)]]

    difference = max(abs(a - b) / abs(b) for a, b in zip(losses(ahead=True), losses(ahead=False), strict=True))
    return {"largest_relative_difference": difference, "passed": difference < 1e-2}


def cached_step(scale: Scale) -> Found:
    """A cached step of few and of many clips."""
    few, many = (1000 * scale.cost("advise", "cached", clips)["step_s"] for clips in (scale.clips, scale.many_clips))
    return {f"{scale.clips}_clips_ms": few, f"{scale.many_clips}_clips_ms": many, "passed": many <= 6}


def live_step(scale: Scale) -> Found:
    """A live step with the augmentation of training, its parts, and the image model alone."""
    learner, block = scale.learner("live", scale.clips)
    step_s = seconds_per_step(learner, block, warm_up=scale.warm_up, steps=scale.steps)
    given, size_px = on_device(block, scale.device), learner.config.augment.crop_size_px
    augmented = partial(augment.apply, given.pictures, block.draws, size_px, learner.model.ifm)
    images = augmented().flatten(0, 1)
    parts = {
        "copy": partial(on_device, block, scale.device),
        "augment": augmented,
        "image_model": partial(learner.model.frame_features, images),
    }
    found = {f"{name}_ms": 1000 * scale.seconds(run) for name, run in parts.items()}
    ratio = 1000 * step_s / found["image_model_ms"]
    return {"step_ms": 1000 * step_s, **found, "step_over_image_model": ratio, "passed": ratio <= 1.15}


def paper(scale: Scale) -> Found:
    """The paper's comparison: an R3D-50 end to end against AdViSe, live and cached."""
    r3d50 = scale.cost("r3d50", "live", scale.clips)
    found: Found = {"r3d50": r3d50} | {arm: scale.cost("advise", arm, scale.clips) for arm in ("live", "cached")}
    holds = {}
    for arm, kind, least in (("live", "step_s", 3.4), ("cached", "step_s", 30), ("live", "peak_bytes", 8.2)):
        name = f"{arm}_{kind.split('_')[0]}_ratio"
        found[name] = r3d50[kind] / found[arm][kind]
        holds[f"{name} >= {least}"] = found[name] >= least
    return {**found, "holds": holds, "passed": all(holds.values())}


def image_model(scale: Scale) -> Found:
    """Frames per second of the image models for each number of frames at once, and with torch.compile."""
    found: Found = {}
    on_gpu = scale.device.type == "cuda"
    for name, compiled in itertools.product((scale.ifm, *scale.others), (False, True) if on_gpu else (False,)):
        config = step_config("advise", name, scale.clips, "bf16", *scale.settings)
        size_px, of = config.augment.crop_size_px, config.model.ifm.model_copy(update={"compile": compiled})
        ifm, row = build_ifm(of, size_px).to(scale.device), {}
        for number in GPU_CHUNKS if on_gpu else (8,):
            frames = torch.zeros(number, size_px, size_px, 3, dtype=torch.uint8, device=scale.device)
            row[f"{number}_first_s"] = scale.once(partial(ifm.encode, frames))
            row[f"{number}_frames_per_s"] = number / scale.seconds(partial(ifm.encode, frames))
        found[f"{name}{', compiled' if compiled else ''}"] = row
    return found


def faster_cached_step(scale: Scale) -> Found:
    """Whether torch.compile, CUDA graphs or the trial of cuDNN's kernels make a cached step of many clips faster."""
    found: Found = {}
    how: dict[str, Found] = {"plain": {}, "no_cudnn_trials": {}, "compiled": {}}
    for name, options in (how | {"cuda_graphs": {"mode": "reduce-overhead"}}).items():
        learner, block = scale.learner("cached", scale.many_clips)
        torch.backends.cudnn.benchmark = name != "no_cudnn_trials"
        if name in ("compiled", "cuda_graphs"):
            compiler = options if scale.device.type == "cuda" else {"backend": "aot_eager"}
            learner.trained = torch.compile(learner.trained, **compiler)
        found[f"{name}_first_s"] = scale.once(partial(learner.train_step, on_device(block, scale.device), 0))
        found[f"{name}_ms"] = 1000 * seconds_per_step(learner, block, warm_up=scale.warm_up, steps=scale.steps)
    return found


def live_run(scale: Scale) -> Found:
    """A live `train`: it may wait for data only if its decode cores are slower than its steps."""
    learner, block = scale.learner("live", scale.clips)
    step_s = seconds_per_step(learner, block, warm_up=scale.warm_up, steps=scale.steps)
    with tempfile.TemporaryDirectory() as folder:
        manifest = decode.make_manifest(Path(folder) / "videos", scale.videos, 4, scale.videos)
        run = (
            *(f"data.manifest={manifest}", "data.val_fraction=0", "data.clip.clips_per_video=4"),
            *(f"storage.path={folder}/runs", "tracking.run_name=live", "train.checkpoint_every_epochs=1000"),
            *(f"train.epochs={scale.epochs}", f"train.use_gpu={str(scale.device.type == 'cuda').lower()}"),
        )
        config = step_config("advise", scale.ifm, scale.clips, "bf16", *run, *scale.settings)
        cores = decode.processes()
        decoded = decode.loop_clips_per_s(config, whole=False) / cores
        result = train(config)
        lines = metrics_lines.of_kind(metrics_lines.read(Path(result["run_dir"]) / "metrics.jsonl"), "epoch")
        last = [line["values"] for line in lines][len(lines) // 3 :]
    wait, rate = (
        statistics.median(line[f"rate/{of}"] for line in last) for of in ("data_wait_fraction", "clips_per_s")
    )
    needed = scale.clips / step_s / decoded
    return {
        **{"clips_per_s": rate, "step_clips_per_s": scale.clips / step_s, "data_wait_fraction": wait},
        **{"decode_clips_per_s_per_core": decoded, "cores": cores, "cores_needed": needed},
        "passed": wait < 0.05 or needed > cores,
    }


def table(scale: Scale) -> Found:
    """The table of `advise-ray bench step`."""
    if scale.settings:
        return {"rows": [scale.cost(kind, "live", scale.clips) for kind in ("r3d50", "advise")]}
    return dict(bench_step.step(lambda row: print(json.dumps(row), file=sys.stderr), scale.device.type))


CHECKS = (no_waiting, feed_is_right, cached_step, live_step, paper, live_run, image_model, faster_cached_step, table)


def describe() -> Found:
    """The machine, with the driver of its GPU."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no GPU of NVIDIA
        driver = None
    return {**machine(), "driver": driver, "cuda": torch.version.cuda, "command": sys.argv, "date": time.strftime("%F")}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File for the results, JSON.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--quick", "is_quick", is_flag=True, help="Tiny models, to test this script.")
@click.option("--budget-s", default=440.0, show_default=True, help="No check begins after this time.")
@click.option("--only", multiple=True, type=click.Choice([check.__name__ for check in CHECKS]))
def main(out: Path, device: str, is_quick: bool, budget_s: float, only: tuple[str, ...]) -> None:
    """Run the checks and write their results. The exit code is 1 if a check raised an error."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("torch finds no GPU here; use --device cpu --quick")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out: the folder of {out} does not exist")
    scale = quick(torch.device(device)) if is_quick else Scale(torch.device(device))
    started_s, results = time.monotonic(), describe()
    for check in (each for each in CHECKS if not only or each.__name__ in only):
        name, began_s = check.__name__, time.monotonic()
        if began_s - started_s > budget_s:
            found: Found = {"skipped": f"the budget of {budget_s:g} s is spent"}
        else:
            try:
                found = check(scale)
            except Exception as error:
                found = {"passed": False, "error": f"{type(error).__name__}: {error}"}
                traceback.print_exc()
        results[name] = {**found, "took_s": round(time.monotonic() - began_s, 1)}
        out.write_text(json.dumps(results, indent=2), encoding="utf-8")
        verdict = {True: "passed", False: "FAILED", None: "measured"}[found.get("passed")]
        click.echo(f"{name:<14} {verdict:<9} {json.dumps(results[name])[:300]}", err=True)
        if device == "cuda":
            torch.cuda.empty_cache()
    sys.exit(any("error" in results.get(check.__name__, {}) for check in CHECKS))


if __name__ == "__main__":
    main()
