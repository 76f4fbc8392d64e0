"""Compares AdViSe with a 3D network trained end to end on the same clips: accuracy and time (paper, figure 1a)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.writer import write_cache
from advise_ray.config import load
from advise_ray.experiment.arms import Trainings
from advise_ray.experiment.suite import LabelledSet
from advise_ray.storage.atomic import write_whole
from advise_ray.training.checkpoint import latest, read_state

R3D50 = (
    "model.kind=r3d50",
    "model.sfu.standardise=false",
    "model.head.looks_weight=0",
    "pretext.masked_frames=0",
    "train.precision=bf16",
    "optim.tmm_lr_factor=1",
)
OURS, EQUAL_STEPS, EQUAL_TIME = "AdViSe", "R3D-50, equal steps", "R3D-50, equal time"


@dataclass(frozen=True)
class Lap:
    """A complete training and test of one of the two models on one set.

    Attributes:
        cache_s: seconds for encoding the clips once; 0 for the 3D network.
        pretrain_s, finetune_s: seconds of the trainings, including the start and end of the runs.
        acc_ft: accuracy on the test videos after PRP and fine-tuning with all labels.
    """

    name: str
    set: str
    seed: int
    pretrain_steps: int
    finetune_steps: int
    cache_s: float
    pretrain_s: float
    finetune_s: float
    acc_ft: float

    @property
    def wall_s(self) -> float:
        """Total time in seconds."""
        return self.cache_s + self.pretrain_s + self.finetune_s


def race(trainings: Trainings, of: LabelledSet, recipe: str, lr: float, seed: int = 0) -> list[Lap]:
    """Train both models for equal steps, and the 3D network also for the total time of AdViSe (cache included).

    Only one training runs on the machine at a time. Both models are pretrained and fine-tuned on the set's training
    videos, at the same learning rate. Earlier results are read from the directory.

    Args:
        trainings: configuration with the numbers of steps for the comparison at equal steps.
        recipe: recipe of the pretraining.
    """
    alone = replace(trainings, out=trainings.out / "rival", features=trainings.out / "rival" / "features", processes=1)
    theirs = replace(alone, features=None, overrides=(*alone.overrides, *R3D50, f"optim.lr={lr}"))

    def lap(name: str, by: Trainings, cache_s: float = 0.0) -> Lap:
        path = alone.out / f"{_slug(name)}-{of.name}-{seed}.json"
        if not path.exists():
            write_whole(path, json.dumps(asdict(_run(name, by, of, recipe, lr, seed, cache_s))))
        return Lap(**json.loads(path.read_text(encoding="utf-8")))

    ours = lap(OURS, alone, _encode(alone, of, recipe))
    equal_steps = lap(EQUAL_STEPS, theirs)
    share = ours.wall_s / equal_steps.wall_s
    fewer = replace(  # the minimum is one epoch each, with one clip of every video
        theirs,
        overrides=(*theirs.overrides, "data.clip.clips_per_video=1"),
        pretrain_steps=max(1, round(equal_steps.pretrain_steps * share)),
        finetune_steps=max(1, round(equal_steps.finetune_steps * share)),
    )
    return [ours, equal_steps, lap(EQUAL_TIME, fewer)]


def _encode(trainings: Trainings, of: LabelledSet, recipe: str) -> float:
    """Make the feature cache if it is missing; returns the seconds that it took when it was made."""
    took = trainings.out / "encoded_s.json"
    started_s = time.monotonic()
    config = load(recipe, [*trainings.overrides, f"data.manifest={json.dumps(str(of.manifest))}"])
    write_cache(plan_cache(config, str(trainings.features)))
    if not took.exists():
        write_whole(took, json.dumps(time.monotonic() - started_s))
    return float(json.loads(took.read_text(encoding="utf-8")))


def _run(name: str, by: Trainings, of: LabelledSet, recipe: str, lr: float, seed: int, cache_s: float) -> Lap:
    run_name, manifest = f"{_slug(name)}-{of.name}-{seed}", of.of_seed(seed)
    pretrained, pretrain_s = _timed(lambda: by.pretrain(recipe, f"{run_name}-pretrain", seed, [manifest]))
    finetuned, finetune_s = _timed(lambda: by.finetune_run(run_name, seed, manifest, lr, pretrained))
    return Lap(
        name=name,
        set=of.name,
        seed=seed,
        pretrain_steps=_steps(pretrained),
        finetune_steps=_steps(finetuned),
        cache_s=cache_s,
        pretrain_s=pretrain_s,
        finetune_s=finetune_s,
        acc_ft=float(np.mean(list(by.test(finetuned).values()))),
    )


def _slug(name: str) -> str:
    return name.lower().replace(", ", "-").replace(" ", "-")


def _timed(train: Callable[[], Path]) -> tuple[Path, float]:
    started_s = time.monotonic()
    return train(), time.monotonic() - started_s


def _steps(run_dir: Path) -> int:
    last = latest(run_dir)
    assert last is not None
    return read_state(last).step


def as_table(laps: list[Lap]) -> str:
    """Format the laps as a Markdown table."""
    lines = ["| | set | steps of PRP and fine-tuning | cache, PRP, fine-tuning, s | total, s | Acc_ft |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for lap in laps:
        parts = f"{lap.cache_s:.0f}, {lap.pretrain_s:.0f}, {lap.finetune_s:.0f}"
        steps = f"{lap.pretrain_steps}, {lap.finetune_steps}"
        lines.append(f"| {lap.name} | {lap.set} | {steps} | {parts} | {lap.wall_s:.0f} | {lap.acc_ft:.3f} |")
    return "\n".join(lines) + "\n"
