"""Writes an evaluation's predictions, figures and result under the run's directory, and logs them to MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.config import played_clip, to_yaml
from advise_ray.evaluation import charts
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.outcome import Outcome
from advise_ray.evaluation.subject import Subject
from advise_ray.storage.atomic import write_whole
from advise_ray.tracking import RunTracker
from advise_ray.video.sampling import spread_clips

MISTAKES_SHOWN = 10
Row = dict[str, Any]


def leave(
    subject: Subject,
    encoder: Encoder,
    protocol: str,
    name: str,
    outcomes: dict[str, Outcome],
    counts: Row,
    started_s: float,
) -> Row:
    """Write predictions, figures and result under the run's directory, and log them to MLflow."""
    folder = subject.run_dir / "evaluation" / name
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    predictions = [{"split": which, **row} for which, outcome in outcomes.items() for row in outcome.predictions]
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
    for which, outcome in outcomes.items():
        _draw(folder, f"-{which}" if len(outcomes) > 1 else "", outcome, encoder, protocol)
    metrics, deviations = _summed_up([outcome.metrics for outcome in outcomes.values()])
    details: Row = {which: {"metrics": outcome.metrics, **outcome.details} for which, outcome in outcomes.items()}
    result: Row = {
        "protocol": protocol,
        "checkpoint": str(subject.path) if subject.path else None,
        "ifm_alone": subject.is_ifm_alone,
        "manifest": subject.config.data.manifest,
        "metrics": metrics,
        "deviations": deviations,
        "splits": details,
        **counts,
        "failed_videos": len({row["video_id"] for row in predictions if row["failure"] is not None}),
        "predictions": str(folder / "predictions.parquet"),
        "figures": sorted(str(path) for path in folder.glob("*.png")),
        "evaluation_dir": str(folder),
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result | _log(subject, encoder, name, metrics, folder)


def _log(subject: Subject, encoder: Encoder, name: str, metrics: dict[str, float], folder: Path) -> Row:
    tracker = RunTracker(subject.config, subject.run_dir)
    is_new = tracker.run_id is None
    if is_new:  # an untrained recipe, or a run that was copied from another machine
        if not (subject.run_dir / "config.yaml").exists():
            (subject.run_dir / "config.yaml").write_text(to_yaml(subject.config), encoding="utf-8")
        tracker.start(device="cuda" if encoder.use_gpu else "cpu")
    values = {f"eval/{name}/{key}": value for key, value in metrics.items()}
    complete = tracker.add(values, sorted(folder.iterdir()), f"evaluation/{name}")
    if is_new:
        complete = tracker.finish("FINISHED") and complete
    return {"mlflow_run_id": tracker.run_id, "tracking_complete": complete}


def _summed_up(metrics: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean of each metric over the splits, and the standard deviation if there are several splits."""
    shared = [name for name in metrics[0] if all(name in each for each in metrics)]
    columns = {name: [each[name] for each in metrics] for name in shared}
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    if len(metrics) == 1:
        return means, {}
    return means, {name: float(np.std(values, ddof=1)) for name, values in columns.items()}


def _draw(folder: Path, suffix: str, outcome: Outcome, encoder: Encoder, protocol: str) -> None:
    if outcome.confusion is not None:
        top1 = f"top1 {outcome.metrics['top1']:.3f}"
        charts.confusion(folder / f"confusion{suffix}.png", outcome.confusion, outcome.names, top1)
        charts.class_bars(folder / f"classes{suffix}.png", outcome.confusion, outcome.names, top1)
    mistakes = list(_mistakes(outcome, encoder, protocol))
    charts.contact_sheet(folder / f"mistakes{suffix}.png", mistakes, encoder.config, "Most confident mistakes")


def _mistakes(outcome: Outcome, encoder: Encoder, protocol: str) -> Iterator[charts.Mistake]:
    """The mistakes with the highest confidence: honest clips for `pretext`, else the middle clip of each video."""
    rows = {video.video_id: video for video in encoder.videos}
    wrong = [row for row in outcome.predictions if row["prediction"] not in (None, row["label"])]
    wrong = [row for row in wrong if row.get("clips", "honest") == "honest"]
    for row in sorted(wrong, key=lambda row: -row.get("score", 0))[:MISTAKES_SHOWN]:
        video = rows[row["video_id"]]
        clip = played_clip(encoder.config)
        frames = np.asarray(row["frame_indices"]) if protocol == "pretext" else None
        if frames is None:
            frames = spread_clips(len(video.frames), clip, 1, video.fps)[0] + video.frames.start
        taken_for, is_really = outcome.names[row["prediction"]], outcome.names[row["label"]]
        sure = f", {row['score']:.2f}" if "score" in row else ""
        caption = f"{is_really}, predicted as {taken_for}{sure}: {video.video_id}"
        yield charts.Mistake(video, frames, caption)
