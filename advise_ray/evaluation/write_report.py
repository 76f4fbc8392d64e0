"""Writes an evaluation's predictions, figures and result under the run's directory, and logs them to MLflow."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired, Required, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from advise_ray.config import played_clip, to_yaml
from advise_ray.errors import TrackingError, UsageError
from advise_ray.evaluation import charts
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.outcome import Details, Outcome
from advise_ray.evaluation.predictions import write_predictions
from advise_ray.evaluation.subject import Subject
from advise_ray.storage.atomic import require_folder, write_whole
from advise_ray.storage.retry import patiently
from advise_ray.tracking import DataSet, RunTracker, data_sets, link, tracked, ui_command
from advise_ray.video.sampling import spread_clips
from advise_ray.video.splits import rows_of

log = logging.getLogger("advise_ray")

MISTAKES_SHOWN = 10


class VideoCounts(TypedDict):
    """The manifest, and numbers of videos, summed over the splits.

    Attributes:
        manifest_sha256: hash of the manifest's rows, see `hash_videos`.
        videos: test videos.
        train_videos: training videos of the protocol. Only with `linear`, `knn` and `retrieval`.
    """

    manifest_sha256: str
    videos: int
    train_videos: NotRequired[int]


class SplitResult(Details):
    """The result on one split.

    Attributes:
        metrics: see `Outcome`.
    """

    metrics: Required[dict[str, float]]


class EvaluationResult(VideoCounts):
    """The content of `result.json`, and the output of `evaluate --json`.

    Attributes:
        protocol: `pretext`, `multiview`, `linear`, `knn` or `retrieval`.
        checkpoint: path of the checkpoint, or None.
        ifm_alone: whether the TMM was removed.
        manifest: paths of the manifests.
        metrics: name → mean over the splits. The metrics are in [0, 1].
        deviations: name → standard deviation over the splits; empty for a single split.
        splits: name of the split → its result.
        failed_videos: number of test videos that could not be decoded.
        predictions: path of `predictions.parquet`.
        figures: paths of the PNG files.
        evaluation_dir: path of the directory with all these files.
        wall_s: seconds that the evaluation took.
        mlflow_run_id: None if the tracking server was never reached. Only in the output of `--json`, as the next one.
        mlflow_ui, mlflow_link: see `RunResult`.
        tracking_complete: whether MLflow has the complete evaluation.
    """

    protocol: str
    checkpoint: str | None
    ifm_alone: bool
    manifest: str | tuple[str, ...] | None
    metrics: dict[str, float]
    deviations: dict[str, float]
    splits: dict[str, SplitResult]
    failed_videos: int
    predictions: str
    figures: list[str]
    evaluation_dir: str
    wall_s: float
    mlflow_run_id: NotRequired[str | None]
    mlflow_ui: NotRequired[str]
    mlflow_link: NotRequired[str | None]
    tracking_complete: NotRequired[bool]


def write_report(
    subject: Subject,
    encoder: Encoder,
    protocol: str,
    name: str,
    outcomes: dict[str, Outcome],
    counts: VideoCounts,
    started_s: float,
) -> EvaluationResult:
    """Write predictions, figures and result under the run's directory, and log them to MLflow."""
    folder = subject.run_dir / "evaluation" / name
    if subject.path is not None:  # the run exists: storage that is away for a moment must not get another one
        patiently(lambda: require_folder(subject.run_dir))
    folder.mkdir(parents=True, exist_ok=True)
    predictions = {which: outcome.predictions for which, outcome in outcomes.items()}
    write_predictions(predictions, folder / "predictions.parquet")
    patiently(lambda: _draw_all(folder, outcomes, encoder, protocol))
    metrics, deviations = _summed_up([outcome.metrics for outcome in outcomes.values()])
    failed = {row["video_id"] for rows in predictions.values() for row in rows if row["failure"] is not None}
    result: EvaluationResult = {
        "protocol": protocol,
        "checkpoint": str(subject.path) if subject.path else None,
        "ifm_alone": subject.is_ifm_alone,
        "manifest": subject.config.data.manifest,
        "metrics": metrics,
        "deviations": deviations,
        "splits": {which: {"metrics": outcome.metrics, **outcome.details} for which, outcome in outcomes.items()},
        **counts,  # type: ignore[typeddict-item]  # a VideoCounts could also hold the keys that are set below
        "failed_videos": len(failed),
        "predictions": str(folder / "predictions.parquet"),
        "figures": sorted(str(path) for path in folder.glob("*.png")),
        "evaluation_dir": str(folder),
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")
    tested = {row["video_id"] for rows in predictions.values() for row in rows}
    ids = encoder.videos.table.column("video_id")
    rows = rows_of(np.asarray(pc.is_in(ids, pa.array(sorted(tested), ids.type))))
    data = data_sets(subject.config.data, counts["manifest_sha256"], encoder.videos, {"test": rows})
    result["mlflow_run_id"], result["tracking_complete"] = _log(subject, encoder, name, metrics, folder, data)
    known_by = tracked(subject.config, subject.run_dir)
    result["mlflow_ui"], result["mlflow_link"] = ui_command(known_by[0]), link(*known_by)
    return result


def _log(
    subject: Subject, encoder: Encoder, name: str, metrics: dict[str, float], folder: Path, data: list[DataSet]
) -> tuple[str | None, bool]:
    """Log the files and metrics. Returns the id of the MLflow run, and whether MLflow has everything."""
    config, run_dir = tracked(subject.config, subject.run_dir)
    if run_dir != subject.run_dir and subject.run_dir.name != "pretrain":  # the fine-tuning of a trial
        name = f"{subject.run_dir.name}/{name}"
    tracker = RunTracker(config, run_dir)
    is_new = tracker.run_id is None
    if is_new:  # an untrained recipe, or a run that was copied from another machine
        if not (subject.run_dir / "config.yaml").exists():
            write_whole(subject.run_dir / "config.yaml", to_yaml(subject.config))
        try:
            tracker.start(device="cuda" if encoder.use_gpu else "cpu")
        except (TrackingError, UsageError) as error:  # the evaluation is done, and its result is written
            log.warning("the evaluation is not in MLflow: %s; then evaluate again", error)
            return None, False
    values = {f"eval/{name}/{key}": value for key, value in metrics.items()}
    complete = tracker.add(values, sorted(folder.iterdir()), f"evaluation/{name}", data, subject.path)
    if is_new:
        complete = tracker.finish("FINISHED") and complete
    return tracker.run_id, complete


def _summed_up(metrics: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean of each metric over the splits, and the standard deviation if there are several splits."""
    shared = [name for name in metrics[0] if all(name in each for each in metrics)]
    columns = {name: [each[name] for each in metrics] for name in shared}
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    if len(metrics) == 1:
        return means, {}
    return means, {name: float(np.std(values, ddof=1)) for name, values in columns.items()}


def _draw_all(folder: Path, outcomes: dict[str, Outcome], encoder: Encoder, protocol: str) -> None:
    """Draw the figures of all splits, and delete those of an earlier evaluation."""
    require_folder(folder)
    for stale in folder.glob("*.png"):
        stale.unlink()
    for which, outcome in outcomes.items():
        _draw(folder, f"-{which}" if len(outcomes) > 1 else "", outcome, encoder, protocol)


def _draw(folder: Path, suffix: str, outcome: Outcome, encoder: Encoder, protocol: str) -> None:
    if outcome.confusion is not None:
        top1 = f"top1 {outcome.metrics['top1']:.3f}"
        charts.confusion(folder / f"confusion{suffix}.png", outcome.confusion, outcome.names, top1)
        charts.class_bars(folder / f"classes{suffix}.png", outcome.confusion, outcome.names, top1)
    mistakes = list(_mistakes(outcome, encoder, protocol))
    charts.contact_sheet(folder / f"mistakes{suffix}.png", mistakes, encoder.config, "Most confident mistakes")


def _mistakes(outcome: Outcome, encoder: Encoder, protocol: str) -> Iterator[charts.Mistake]:
    """The mistakes with the highest confidence: honest clips for `pretext`, else the middle clip of each video."""
    wrong = [
        (row, predicted)
        for row in outcome.predictions
        if (predicted := row["prediction"]) is not None and predicted != row["label"]
        if row.get("clips", "honest") == "honest"
    ]
    shown = sorted(wrong, key=lambda each: -(each[0].get("score") or 0))[:MISTAKES_SHOWN]
    by_id = encoder.videos.named({row["video_id"] for row, _ in shown})
    for row, predicted in shown:
        video, clip = by_id[row["video_id"]], played_clip(encoder.config)
        if protocol == "pretext":
            frames = np.asarray(row["frame_indices"])
        else:
            frames = spread_clips(len(video.frames), clip, 1, video.fps)[0] + video.frames.start
        taken_for, is_really = outcome.names[predicted], outcome.names[row["label"]]
        sure = f", {row['score']:.2f}" if "score" in row else ""
        caption = f"{is_really}, predicted as {taken_for}{sure}: {video.video_id}"
        yield charts.Mistake(video, frames, caption)
