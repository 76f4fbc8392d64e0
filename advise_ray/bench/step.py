"""`bench step`: compares time and memory of a training step of AdViSe and of an R3D-50 trained end to end."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from advise_ray.bench.machine import Environment, machine
from advise_ray.bench.step_time import Cost, Features, measure

log = logging.getLogger("advise_ray")


@dataclass(frozen=True)
class Extent:
    """What is measured on a device.

    Attributes:
        clips: numbers of clips of a step.
        ifms: names of the image models.
        r3d50_precisions: precisions of the R3D-50; its best one counts.
        warm_up_steps: steps before the measurement. On a GPU they choose chunks and kernels.
        window_steps: steps between two waits for the device.
    """

    clips: tuple[int, ...]
    ifms: tuple[str, ...]
    r3d50_precisions: tuple[str, ...]
    warm_up_steps: int
    window_steps: int


VIT_B_32, VIT_B_16, VIT_L_14 = "open_clip:ViT-B-32", "open_clip:ViT-B-16", "open_clip:ViT-L-14"
EXTENTS = {
    "cpu": Extent((4, 8, 16), (VIT_B_32, VIT_B_16), ("fp32", "bf16"), 1, 1),
    "cuda": Extent((8, 16, 32, 64, 128), (VIT_B_32, VIT_B_16, VIT_L_14), ("bf16",), 4, 10),
}


class StepRow(Cost):
    """One case of the benchmark.

    Attributes:
        kind: `advise` or `r3d50`.
        ifm: name of the image model; None for the R3D-50.
        features: `live` if the step begins with pixels, `cached` if it begins with features of a cache.
        clips: number of clips of a step.
        precision: `fp32` or `bf16`.
    """

    kind: str
    ifm: str | None
    features: Features
    clips: int
    precision: str


class StepRatios(TypedDict):
    """Time and memory of the R3D-50 at its best precision, divided by those of AdViSe."""

    time_ratio: float
    memory_ratio: float


class CaseRatios(StepRatios):
    """The ratios of one case of AdViSe."""

    ifm: str | None
    features: Features
    clips: int


class StepResult(StepRatios, Environment):
    """The output of `bench step --json`. Its own ratios are those of 8 clips, live, with ViT-B/32."""

    rows: list[StepRow]
    ratios: list[CaseRatios]


def step(on_row: Callable[[StepRow], None] = lambda row: None, device: str = "cpu") -> StepResult:
    """Measure one training step on 224 px clips of 8 frames, for AdViSe and for an R3D-50 trained end to end.

    Args:
        device: `cpu` or `cuda`. A GPU measures more and larger cases; those that do not fit its memory are left out.
    """
    extent, rows = EXTENTS[device], []
    cases: list[tuple[str, str, str, Features]] = [
        ("r3d50", VIT_B_32, precision, "live") for precision in extent.r3d50_precisions
    ]
    kinds: tuple[Features, ...] = ("live", "cached")
    cases += [("advise", ifm, "bf16", features) for ifm in extent.ifms for features in kinds]
    for (kind, ifm, precision, features), clips in itertools.product(cases, extent.clips):
        row = measure_step(kind, ifm, clips, precision, features, device)
        if row is None:
            log.warning("note: %s %s: %d clips do not fit in the memory of the GPU", kind, ifm, clips)
        else:
            rows.append(row)
            on_row(row)
    ratios = case_ratios(rows)
    (ours,) = (each for each in ratios if (each["ifm"], each["features"], each["clips"]) == (VIT_B_32, "live", 8))
    overall: StepRatios = {"time_ratio": ours["time_ratio"], "memory_ratio": ours["memory_ratio"]}
    return {"rows": rows, "ratios": ratios, **overall, **machine()}


def case_ratios(rows: list[StepRow]) -> list[CaseRatios]:
    """Compare each case of AdViSe with the R3D-50 at as many clips, if that fits the memory."""
    ratios: list[CaseRatios] = []
    for row in rows:
        theirs = [other for other in rows if other["kind"] == "r3d50" and other["clips"] == row["clips"]]
        if row["kind"] == "advise" and theirs:
            ratios.append(
                {
                    "ifm": row["ifm"],
                    "features": row["features"],
                    "clips": row["clips"],
                    "time_ratio": min(other["step_s"] for other in theirs) / row["step_s"],
                    "memory_ratio": min(other["peak_bytes"] for other in theirs) / row["peak_bytes"],
                }
            )
    return ratios


def measure_step(
    kind: str, ifm: str, clips: int, precision: str, features: Features = "live", device: str = "cpu"
) -> StepRow | None:
    """Measure one case. None: it does not fit in the memory of the GPU.

    On a CPU it runs in a separate process, so that its remaining memory does not count for the next case.
    """
    extent = EXTENTS[device]
    how = (kind, ifm, clips, precision, features, device, extent.warm_up_steps, extent.window_steps)
    if device == "cpu":
        with multiprocessing.get_context("spawn").Pool(1) as process:
            cost: Cost | None = process.apply(measure, how)
    else:
        cost = measure(*how)
    if cost is None:
        return None
    named = ifm if kind == "advise" else None
    return {"kind": kind, "ifm": named, "features": features, "clips": clips, "precision": precision, **cost}
