"""What a run came to, and what it tells while it goes on: `result.json` and `metrics.jsonl`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from advise_ray.storage.atomic import write_whole
from advise_ray.storage.jsonl import read_lines
from advise_ray.tracking import ui_command
from advise_ray.training import checkpoint, status
from advise_ray.training.plan import Plan
from advise_ray.video.manifest import read_rejects

Line = dict[str, Any]


def write_result(plan: Plan, run_dir: Path, mlflow_run_id: str | None, ended: str, started_s: float) -> Line:
    """Sum up a run from its directory, into its `result.json`.

    Args:
        ended: FINISHED, FAILED or KILLED.
        started_s: when, by `time.monotonic`.
    """
    last = checkpoint.latest(run_dir)
    best = checkpoint.best(run_dir)
    state = checkpoint.read_state(last) if last else checkpoint.State()
    epoch = last_epoch(run_dir / "metrics.jsonl")
    values = dict(epoch["values"]) if epoch else {}
    metrics = {name.replace("epoch_", ""): value for name, value in values.items() if not name.startswith("rate/")}
    result = {
        "run_name": run_dir.name,
        "run_dir": str(run_dir),
        "mlflow_run_id": mlflow_run_id,
        "status": ended,
        "checkpoint": str(last) if last else None,
        "best_checkpoint": str(best) if best else None,
        "epochs": epoch["epoch"] + 1 if epoch else 0,
        "steps": state.step,
        "clips_seen": state.clips_seen,
        "metrics": metrics,
        "rates": {name.removeprefix("rate/"): value for name, value in values.items() if name.startswith("rate/")},
        "failed_videos": len(read_rejects(run_dir / "rejects.parquet")),
        "val_videos_too_short": plan.schedule.num_short_val_videos,
        "parameters_trained": plan.parameters_trained,
        "ifm_sha256": plan.ifm_sha256,
        "mlflow_ui": ui_command(plan.config),
        "bound_by": status.bound_by(plan.config, values),
        "wall_s": round(time.monotonic() - started_s, 1),
        "ended_s": time.time(),
    }
    write_whole(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def last_epoch(path: Path) -> Line | None:
    """The line of the last epoch that ended."""
    ended = [line for line in read_lines(path) if "train/epoch_loss" in line["values"]]
    return max(ended, key=lambda line: line["epoch"], default=None)
