"""Writes and reads `result.json`, the result of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from advise_ray.config import Config
from advise_ray.storage.atomic import write_whole
from advise_ray.storage.remote import is_url
from advise_ray.tracking import link, table_link, ui_command
from advise_ray.training import checkpoint, metrics_lines
from advise_ray.training.plan import Plan
from advise_ray.training.worker_spec import streams
from advise_ray.video.rejects import read_rejects

WAITS_FRACTION = 0.1
"""If workers wait for data for at least this fraction of the time, reading the data limits the speed of the run."""
UNEVEN_FRACTION = 0.1
"""If one worker waits for data longer than the average by at least this fraction of the time, its decoders are slow."""


class RunResult(TypedDict):
    """The content of `result.json`, and the output of `train --json`.

    Attributes:
        run_name: name of the run and of its directory.
        run_dir: path of the directory.
        mlflow_run_id: None if the tracking server was never reached.
        status: FINISHED, FAILED or KILLED.
        checkpoint: path of the last checkpoint, or None.
        best_checkpoint: path of the checkpoint with the highest `val/top1`, or None.
        epochs: number of finished epochs.
        steps: optimizer steps at the last checkpoint.
        clips_seen: training clips at the last checkpoint, without those of weight 0.
        metrics: metrics of the last epoch: `train/loss`, `train/top1`, `val/loss`, `val/top1`, …
        rates: speed of the last epoch: `clips_per_s`, `data_wait_fraction` (mean of the workers),
            `data_wait_most_fraction` (the worker that waits most), `epoch_s`.
        failed_videos: number of rows of `rejects.parquet`.
        val_videos_too_short: number of validation videos that are too short for the fastest rate.
        parameters_trained: number of trained parameters.
        ifm_sha256: hash of the frozen weights (`IFM.hash_weights`).
        mlflow_ui: address of the MLflow UI, or command that serves it.
        mlflow_link: page of the MLflow UI with the run's curves, see `tracking.link`.
        mlflow_table: page with all runs of the experiment, best first, see `tracking.table_link`.
        bound_by: what limits the speed (the function `bound_by`), or None.
        wall_s: seconds since this start of the run.
        ended_s: end of the run, Unix time.
        tracking_complete: whether MLflow has the complete run. Only in the output of `--json`.
    """

    run_name: str
    run_dir: str
    mlflow_run_id: str | None
    status: str
    checkpoint: str | None
    best_checkpoint: str | None
    epochs: int
    steps: int
    clips_seen: int
    metrics: dict[str, float]
    rates: dict[str, float]
    failed_videos: int
    val_videos_too_short: int
    parameters_trained: int
    ifm_sha256: str
    mlflow_ui: str
    mlflow_link: NotRequired[str | None]
    mlflow_table: NotRequired[str | None]
    bound_by: str | None
    wall_s: float
    ended_s: float
    tracking_complete: NotRequired[bool]


def write_result(plan: Plan, run_dir: Path, mlflow_run_id: str | None, ended: str, started_s: float) -> RunResult:
    """Write `result.json` from the files of a run's directory.

    Args:
        ended: FINISHED, FAILED or KILLED.
        started_s: start of the run, by `time.monotonic`.

    Raises:
        OSError: the storage does not answer. The caller may try again.
    """
    last = checkpoint.latest(run_dir)
    best = checkpoint.best(run_dir)
    state = checkpoint.read_state(last) if last else checkpoint.State()
    ended_epochs = metrics_lines.of_kind(metrics_lines.read(run_dir / "metrics.jsonl"), "epoch")
    epoch = max(ended_epochs, key=lambda line: line["epoch"], default=None)
    values = dict(epoch["values"]) if epoch else {}
    metrics = {name.replace("epoch_", ""): value for name, value in values.items() if not name.startswith("rate/")}
    result = RunResult(
        run_name=run_dir.name,
        run_dir=str(run_dir),
        mlflow_run_id=mlflow_run_id,
        status=ended,
        checkpoint=str(last) if last else None,
        best_checkpoint=str(best) if best else None,
        epochs=epoch["epoch"] + 1 if epoch else 0,
        steps=state.step,
        clips_seen=state.clips_seen,
        metrics=metrics,
        rates={name.removeprefix("rate/"): value for name, value in values.items() if name.startswith("rate/")},
        failed_videos=len(read_rejects(run_dir / "rejects.parquet")),
        val_videos_too_short=plan.schedule.num_short_val_videos,
        parameters_trained=plan.parameters_trained,
        ifm_sha256=plan.ifm_sha256,
        mlflow_ui=ui_command(plan.config),
        mlflow_link=link(plan.config, run_dir),
        mlflow_table=table_link(plan.config, run_dir),
        bound_by=bound_by(plan.config, values),
        wall_s=round(time.monotonic() - started_s, 1),
        ended_s=time.time(),
    )
    write_whole(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def read_result(run_dir: Path) -> RunResult | None:
    """Read `result.json` of a run. None if the run has not ended."""
    path = run_dir / "result.json"
    return cast("RunResult", json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def bound_by(config: Config, values: Mapping[str, float]) -> str | None:
    """What limits the speed of a run, from its last epoch. None if no epoch has ended."""
    waits = values.get("rate/data_wait_fraction")
    if waits is None:
        return None
    most = values.get("rate/data_wait_most_fraction", waits)  # earlier runs do not have it
    if most - waits >= UNEVEN_FRACTION and streams(config):
        return (
            f"one worker's share of the data: it waits {most:.0%} of the time, the workers on average {waits:.0%}; "
            "each worker has decode actors of its own: are they equally many and equally fast?"
        )
    if waits >= WAITS_FRACTION:
        if config.data.features is not None:
            where = "the network" if is_url(config.data.features) else "the disk"
            return f"{where}: workers wait {waits:.0%} of the time for cached features"
        return f"decoding: workers wait {waits:.0%} of the time; add CPUs for decoding, or cache the features"
    if config.model.kind == "r3d50":
        return "the model itself"
    if config.data.features is None:
        return "the image model: `advise-ray cache` computes its features once"
    return "the temporal module"
