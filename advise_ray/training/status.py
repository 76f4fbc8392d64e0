"""The status of a run, read from its directory. Works from any machine, during the run and after it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advise_ray.backend import nodes
from advise_ray.config import Config, load
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import write_whole
from advise_ray.storage.remote import is_url
from advise_ray.training import metrics_lines
from advise_ray.training.metrics_lines import MetricsLine

Row = dict[str, Any]
SILENT_S = 60.0
"""A run writes its status every few seconds. After this time without one it is dead, or its storage is missing."""
WAITS_FRACTION = 0.1
"""If workers wait for data for at least this fraction of the time, the data limit the speed of the run."""


def note(run_dir: Path, total_steps: int, waiting: str | None = None) -> None:
    """Write `status.json`: the time, the number of steps, what the run waits for, total and free CPUs of each node."""
    noted = {"time_s": time.time(), "total_steps": total_steps, "waiting": waiting, "nodes": nodes.usage()}
    write_whole(run_dir / "status.json", json.dumps(noted))


def read(run_dir: Path) -> Row:
    """Read the status of a run.

    Returns:
        A dict with `status` (RUNNING, SILENT, FINISHED, FAILED or KILLED), `epoch` of `epochs`, `step` of `steps`,
        `values` (of the last epoch), `eta_s` (None if the run is not running), `bound_by` (see below), `waiting` (the
        CPUs and GPUs that the run waits for, or None) and `nodes`.

    Raises:
        UsageError: `run_dir` is not a run directory.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UsageError(f"{run_dir} is not a run directory (it has no config.yaml)")
    config = load(run_dir / "config.yaml")
    noted = _json(run_dir / "status.json")
    result = _json(run_dir / "result.json")
    lines = metrics_lines.read(run_dir / "metrics.jsonl")
    steps, epochs = metrics_lines.of_kind(lines, "step"), metrics_lines.of_kind(lines, "epoch")
    silent_s = time.time() - noted.get("time_s", (run_dir / "config.yaml").stat().st_mtime)
    ended = result.get("status") if result.get("ended_s", 0) >= noted.get("time_s", 0) else None  # else resumed
    status = ended or ("RUNNING" if silent_s < SILENT_S else "SILENT")
    step, total = (steps[-1]["step"] if steps else 0), noted.get("total_steps")
    values = epochs[-1]["values"] if epochs else {}
    return {
        "run_name": run_dir.name,
        "status": status,
        "silent_s": round(silent_s, 1),
        "epoch": epochs[-1]["epoch"] + 1 if epochs else 0,
        "epochs": config.train.epochs,
        "step": step,
        "steps": total,
        "values": values,
        "eta_s": _eta_s(steps, total) if status == "RUNNING" else None,
        "bound_by": bound_by(config, values),
        "waiting": noted.get("waiting") if status == "RUNNING" else None,
        "nodes": noted.get("nodes", []),
    }


def bound_by(config: Config, values: Mapping[str, float]) -> str | None:
    """What limits the speed of a run, from its last epoch. None if no epoch has ended."""
    waits = values.get("rate/data_wait_fraction")
    if waits is None:
        return None
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


def _eta_s(steps: list[MetricsLine], total: int | None) -> float | None:
    """Seconds to the end, estimated from the last 100 steps."""
    recent = steps[-100:]
    if total is None or len(recent) < 2 or recent[-1]["time_s"] <= recent[0]["time_s"]:
        return None
    pace_s = (recent[-1]["time_s"] - recent[0]["time_s"]) / (recent[-1]["step"] - recent[0]["step"])
    return round(pace_s * (total - recent[-1]["step"]), 1)


def _json(path: Path) -> Row:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
