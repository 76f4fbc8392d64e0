"""What a terminal shows of a run beside its table: small curves, chance beside an accuracy, and the next commands."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from advise_ray.config import Config, load, recipes
from advise_ray.errors import UsageError
from advise_ray.training import checkpoint, metrics_lines
from advise_ray.training.metrics_lines import MetricsLine
from advise_ray.training.run_dir import read_config
from advise_ray.video.manifest import read_manifest
from advise_ray.video.splits import named_classes

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 40
FINE_TUNING = ("finetune_footage", "finetune_quickstart")
IMAGE_MODEL = "the image model"
"""What `run_result.bound_by` begins with if a feature cache would make the run faster."""


def is_sweep(run_dir: Path) -> bool:
    """Whether this is the directory of a sweep."""
    return bool(load(run_dir / "config.yaml").search)


def can_draw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows block characters."""
    return stream.isatty() and "utf" in (stream.encoding or "").lower()


def curve(values: Sequence[float]) -> str:
    """Draw finite values with block characters, at most `CURVE_WIDTH`, each the mean of a part of the values."""
    finite = [value for value in values if math.isfinite(value)]
    width = min(CURVE_WIDTH, len(finite))
    bounds = [round(part * len(finite) / width) for part in range(width + 1)] if width else [0]
    means = [sum(finite[start:end]) / (end - start) for start, end in itertools.pairwise(bounds)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    steps = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * steps)] for mean in means)


def curves(run_dir: Path) -> dict[str, str]:
    """Rows for the table of a run: its loss and its top-1 over time, with the first and the last value.

    Top-1 is that of validation, or of training in a run without validation. A curve needs two values.
    """
    lines = metrics_lines.read(run_dir / "metrics.jsonl")
    top1 = _series(lines, "val/top1") or _series(lines, "train/epoch_top1")
    found = {"loss over time": _series(lines, "train/loss"), "top1 over time": top1}
    return {
        name: f"{curve(values)}  {values[0]:.3f} → {values[-1]:.3f}"
        for name, values in found.items()
        if len(values) > 1
    }


def _series(lines: Sequence[MetricsLine], metric: str) -> list[float]:
    """The values of a metric by step; of a step that was repeated after a crash, the last one."""
    return list({line["step"]: line["values"][metric] for line in lines if metric in line["values"]}.values())


def with_chance(values: Mapping[str, float], run_dir: Path) -> dict[str, str]:
    """Format metrics; accuracies get the accuracy of guessing, if a checkpoint says how many classes."""
    last = checkpoint.latest(run_dir)
    classes = checkpoint.read_state(last).classes if last is not None else []
    chance = f", chance {1 / len(classes):.3f}" if classes else ""
    return {name: f"{value:.4g}{chance if name.endswith(('top1', 'acc_ft')) else ''}" for name, value in values.items()}


def next_commands(run_dir: Path, status: str, bound_by: str | None) -> list[str]:
    """The commands that come next: resume the run; or evaluate it, fine-tune or embed it, and make the next run faster.

    A trial of a sweep has none.
    """
    run, config = shlex.quote(str(run_dir)), read_config(run_dir.absolute())
    if (run_dir / "settings.json").exists():
        return []
    if status in ("FAILED", "KILLED", "SILENT"):
        return [f"advise-ray {'tune' if config.search else 'train'} --resume {run}"]
    cache = _cache(config, run_dir) if bound_by is not None and bound_by.startswith(IMAGE_MODEL) else []
    if status != "FINISHED" or config.search:
        return cache
    evaluate = f"advise-ray evaluate {run} --protocol {'pretext' if config.task == 'prp' else 'multiview'}"
    return [evaluate, *(_fine_tune(config, run) or _embed(config, run, run_dir.name)), *cache]


def _cache(config: Config, run_dir: Path) -> list[str]:
    """The command that caches the features of a run's videos, or, if there is such a cache, trains on it."""
    recipe, features = str(run_dir / "config.yaml"), f"{config.storage.path}/{run_dir.name}_features"
    if Path(features).exists():
        return [train_on(features, config, recipe)]
    return [f"advise-ray cache --config {shlex.quote(recipe)} --out {shlex.quote(features)}"]


def train_on(features: str, config: Config, recipe: str | None, settings: Sequence[str] = ()) -> str:
    """The command that trains on a feature cache, under a new name if there is a run of the recipe's name.

    Args:
        config: what the recipe and the settings say.
        recipe: file or name of the recipe; None for the default one.
    """
    name = config.tracking.run_name
    is_taken = name is not None and (Path(config.storage.path) / name).exists()
    renamed = [f"tracking.run_name={name}_cached"] if is_taken else []
    options = [("--config", recipe)] if recipe else []
    options += [("--set", each) for each in (*settings, *renamed, f"data.features={features}")]
    return " ".join(["advise-ray train", *(f"{option} {shlex.quote(value)}" for option, value in options)])


def _fine_tune(config: Config, run: str) -> list[str]:
    """The command that leads to the fine-tuning on the same videos. Empty if they have no classes."""
    if config.task != "prp" or not isinstance(config.data.manifest, str):
        return []
    with contextlib.suppress(UsageError):
        if len(named_classes(read_manifest(Path(config.data.manifest)))) > 1:
            for name in FINE_TUNING:
                model = load(recipes.find(name)).model
                if all(getattr(model, part) == getattr(config.model, part) for part in ("ifm", "sfu", "tmm")):
                    manifest = shlex.quote(f"data.manifest={config.data.manifest}")
                    return [f"advise-ray train --config {name} --set {manifest} --set model.init_from={run}"]
            return [f"advise-ray init --videos {shlex.quote(config.data.manifest)} --labels --out finetune.yaml"]
    return []


def _embed(config: Config, run: str, name: str) -> list[str]:
    if not config.data.manifests:
        return []
    videos, out = shlex.quote(str(config.data.manifests[0])), shlex.quote(f"{name}_embeddings.parquet")
    return [f"advise-ray embed {run} --videos {videos} --out {out}"]
