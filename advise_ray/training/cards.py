"""Writes the model card and the data card (Markdown) for users of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from advise_ray.config import Config, flatten
from advise_ray.training.run_result import RunResult
from advise_ray.video.pool import read_videos
from advise_ray.video.rejects import read_rejects

SHOWN = ("model.", "data.clip.", "augment.", "optim.", "train.epochs", "train.global_batch_size", "seed")


def model_card(config: Config, result: RunResult, classes: list[str]) -> str:
    """The model card: the model, its training, its metrics, its limits and its recipe."""
    pretext = config.task == "prp"
    head = "how fast a video is played (playback-rate prediction)" if pretext else "actions"
    metrics = "".join(f"| `{name}` | {value:.4g} |\n" for name, value in sorted(result["metrics"].items()))
    settings = flatten(config)
    recipe = "".join(f"| `{key}` | `{settings[key]}` |\n" for key in settings if key.startswith(SHOWN))
    limits = [
        "The image model is frozen and not part of the checkpoint. The checkpoint needs weights with the same hash.",
        "It sees the centre of the picture, and clips of "
        f"{config.data.clip.num_frames} frames. It does not see what happens between these frames.",
        "The metrics hold for videos like the training videos. The data card describes them.",
    ]
    if pretext:
        limits.append("Its head predicts playback rates. To predict your own classes, fine-tune it.")
    return f"""# {result["run_name"]}

A temporal module on the frozen image model `{config.model.ifm.name}` (weights `{config.model.ifm.weights}`, SHA-256 of
its tensors `{result["ifm_sha256"]}`), {result["parameters_trained"]:,} trained parameters. It predicts {head}:
{", ".join(classes)}.

Trained for {result["epochs"]} epochs, {result["steps"]} steps, {result["clips_seen"]:,} clips; {result["status"]}.

## Metrics of the last epoch

| metric | value |
| --- | --- |
{metrics}
## Limits

{"".join(f"- {limit}{chr(10)}" for limit in limits)}
## Recipe

| key | value |
| --- | --- |
{recipe}"""


def data_card(config: Config, run_dir: Path) -> str:
    """The data card: number of videos in each split, durations, classes, and the videos that failed."""
    table = read_videos(config.data)
    counts = {name: pc.sum(pc.equal(table.column("split"), name)).as_py() for name in _distinct(table.column("split"))}
    duration_s = pc.quantile(pc.divide(pc.cast(table.column("num_frames"), "double"), table.column("fps")), [0, 0.5, 1])
    low, middle, high = duration_s.to_pylist()
    rejects = read_rejects(run_dir / "rejects.parquet")
    labels = table.column("label")
    classes = len(_distinct(labels)) if labels.null_count < len(labels) else 0
    splits = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    failed = "".join(f"- `{video_id}`: {reason}\n" for video_id, reason in list(rejects.items())[:50])
    names = ", ".join(f"`{path}`" for path in config.data.manifests)
    return f"""# Data of {run_dir.name}

{names}: {table.num_rows:,} videos ({splits or "no splits"}),
{classes or "no"} classes; {low:.3g} to {high:.3g} s, half of them below {middle:.3g} s.
Trained on split `{config.data.train_split}`.

{len(rejects)} videos could not be decoded and were left out of the loss.

{failed}"""


def _distinct(column: Any) -> list[Any]:
    return [value for value in pc.unique(column).to_pylist() if value is not None]
