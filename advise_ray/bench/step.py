"""`bench step`: compares time and memory of a training step of AdViSe and of an R3D-50 trained end to end."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from advise_ray.backend.peak_memory import PeakMemory
from advise_ray.bench.machine import Environment, machine
from advise_ray.config import Config, load

if TYPE_CHECKING:
    from advise_ray.training.clip_block import ClipBlock

STEP_CLIPS = (4, 8, 16)
STEP_IFMS = ("open_clip:ViT-B-32", "open_clip:ViT-B-16")
STEPS = 3
NUM_CLASSES = 4


class StepRow(TypedDict):
    """One case of the benchmark.

    Attributes:
        kind: `advise` or `r3d50`.
        ifm: name of the image model; None for the R3D-50.
        clips: number of clips of a step.
        precision: `fp32` or `bf16`.
        step_s: median time of a step in seconds.
        peak_bytes: bytes of parameters, gradients, optimizer state and activations: the highest resident memory during
            the steps (on CUDA: allocated memory), minus the memory of the process before the model is built.
        trained_parameters: number of trained parameters.
    """

    kind: str
    ifm: str | None
    clips: int
    precision: str
    step_s: float
    peak_bytes: int
    trained_parameters: int


class StepRatios(TypedDict):
    """Time and memory of the R3D-50 at 8 clips divided by those of AdViSe with ViT-B/32, each at its best precision."""

    time_ratio: float
    memory_ratio: float


class StepResult(StepRatios, Environment):
    """The output of `bench step --json`."""

    rows: list[StepRow]


def step(on_row: Callable[[StepRow], None] = lambda row: None) -> StepResult:
    """Measure one training step on 224 px clips of 8 frames, for AdViSe and for an R3D-50 trained end to end."""
    cases = [("r3d50", STEP_IFMS[0], precision) for precision in ("fp32", "bf16")]
    cases += [("advise", ifm, "bf16") for ifm in STEP_IFMS]
    rows = []
    for clips in STEP_CLIPS:
        for kind, ifm, precision in cases:
            rows.append(measure_step(kind, ifm, clips, precision))
            on_row(rows[-1])
    return {"rows": rows, **step_ratios(rows), **machine()}


def step_ratios(rows: list[StepRow]) -> StepRatios:
    """Compute the ratios from all cases."""
    (ours,) = (row for row in rows if (row["ifm"], row["clips"]) == (STEP_IFMS[0], 8))
    theirs = [row for row in rows if row["kind"] == "r3d50" and row["clips"] == 8]
    return {
        "time_ratio": min(row["step_s"] for row in theirs) / ours["step_s"],
        "memory_ratio": min(row["peak_bytes"] for row in theirs) / ours["peak_bytes"],
    }


def measure_step(kind: str, ifm: str, clips: int, precision: str) -> StepRow:
    """Measure one case in a separate process, so that its remaining memory does not count for the next case."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_measure_step, (kind, ifm, clips, precision))


def step_config(kind: str, ifm: str, clips: int, precision: str) -> Config:
    """The paper's model (4 ResNet3D blocks, 256 → 512) on 7×7 cells, or the R3D-50. Random weights cost the same."""
    return load(
        None,
        [
            f"model.kind={kind}",
            f"model.ifm={{name: '{ifm}', weights: none, precision: bf16}}",
            "model.sfu={spatial_size: 7, temporal_centering: false}",
            f"train={{global_batch_size: {clips}, precision: {precision}}}",
            "data.clip.clips_per_video=1",
        ],
    )


def _measure_step(kind: str, ifm: str, clips: int, precision: str) -> StepRow:
    import open_clip  # noqa: F401 (imported now, so that its code does not count as memory of the step)
    import torch

    from advise_ray.model.advise import build_advise
    from advise_ray.training.batch_schedule import Schedule
    from advise_ray.training.learner import Learner

    config = step_config(kind, ifm, clips, precision)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = PeakMemory(device)
    model = build_advise(config, NUM_CLASSES)
    everybody, nobody = np.arange(clips, dtype=np.int32), np.arange(0, dtype=np.int32)
    learner = Learner(config, Schedule(0, 1, 1, clips, 1, 1, everybody, nobody, 0), model, device)
    memory.forget_peak()
    seconds = []
    for number in range(1 + STEPS):
        block = _random_block(config, clips)
        started_s = time.perf_counter()
        learner.train_step(block, number).tolist()  # waits for the device
        seconds.append(time.perf_counter() - started_s)
    return {
        "kind": kind,
        "ifm": ifm if kind == "advise" else None,
        "clips": clips,
        "precision": precision,
        "step_s": statistics.median(seconds[1:]),
        "peak_bytes": memory.peak_bytes(),
        "trained_parameters": sum(parameter.numel() for parameter in model.temporal.parameters()),
    }


def _random_block(config: Config, clips: int) -> ClipBlock:
    from advise_ray.training.clip_block import ClipBlock
    from advise_ray.video.augment_draws import centre_crop

    size = config.augment
    shape = (clips, config.data.clip.num_frames, size.resize_height_px, size.resize_width_px, 3)
    return ClipBlock(
        targets=np.arange(clips) % NUM_CLASSES,
        weights=np.ones(clips, dtype=np.float32),
        frames=np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8),
        draws=np.tile(centre_crop(size), (clips, 1)),
    )
