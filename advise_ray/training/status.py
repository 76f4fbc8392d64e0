"""The status of a run, read from its directory. Works from any machine, during the run and after it."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict, cast

from advise_ray.backend import nodes
from advise_ray.backend.nodes import NodeUsage
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import write_once
from advise_ray.tracking import link, tracked, ui_command
from advise_ray.training import metrics_lines
from advise_ray.training.metrics_lines import MetricsLine
from advise_ray.training.run_dir import read_config
from advise_ray.training.run_result import bound_by, read_result

NOTE_EVERY_S = 10.0
SILENT_S = 60.0
"""A run writes its status every few seconds. If it is silent for this long, it is dead or cannot reach its storage."""


class StatusNote(TypedDict):
    """The content of `status.json`, which a run writes every few seconds.

    Attributes:
        time_s: when it was written, Unix time.
        total_steps: number of steps of the run, or of trials of a sweep.
        waiting: the CPUs and GPUs that the run waits for, or None.
        nodes: total and free CPUs and GPUs of each node.
    """

    time_s: float
    total_steps: int
    waiting: str | None
    nodes: list[NodeUsage]


class RunStatus(TypedDict):
    """The output of `status --json`.

    Attributes:
        run_name: name of the run.
        status: RUNNING, SILENT, FINISHED, FAILED or KILLED.
        silent_s: seconds since the run has written its status.
        epoch: number of finished epochs.
        epochs: number of epochs of the run.
        step: number of finished steps of a run, or of trials of a sweep that have ended.
        steps: number of all steps, or trials; None if the run has not started.
        values: metrics of the last epoch.
        eta_s: seconds to the end; None if the run is not running, or has just started.
        bound_by: what limits the speed (`run_result.bound_by`), or None.
        waiting, nodes: see `StatusNote`. `waiting` is None if the run is not running.
        mlflow_ui, mlflow_link: see `RunResult`; of a sweep, `SweepResult`.
    """

    run_name: str
    status: str
    silent_s: float
    epoch: int
    epochs: int
    step: int
    steps: int | None
    values: dict[str, float]
    eta_s: float | None
    bound_by: str | None
    waiting: str | None
    nodes: list[NodeUsage]
    mlflow_ui: str
    mlflow_link: str | None


def note(run_dir: Path, total_steps: int, waiting: str | None = None) -> None:
    """Write `status.json`, in one attempt: the next note replaces it soon, and the caller must not wait."""
    noted = StatusNote(time_s=time.time(), total_steps=total_steps, waiting=waiting, nodes=nodes.usage())
    write_once(run_dir / "status.json", json.dumps(noted))


@contextlib.contextmanager
def noting(run_dir: Path, total_steps: int, waiting: Callable[[], str | None]) -> Iterator[None]:
    """Write `status.json` every NOTE_EVERY_S seconds in a thread, until the context ends."""
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with contextlib.suppress(Exception):  # storage or Ray that does not answer; the caller meets it too
                note(run_dir, total_steps, waiting())
            ended.wait(NOTE_EVERY_S)

    thread = threading.Thread(target=write, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def state(run_dir: Path) -> tuple[str, float]:
    """The status of a run or a sweep (see `RunStatus`), and the seconds since it was last noted."""
    noted, result = _read_note(run_dir / "status.json"), read_result(run_dir)
    silent_s = time.time() - (noted["time_s"] if noted else (run_dir / "config.yaml").stat().st_mtime)
    # If the note is newer, the run was resumed. An earlier version wrote no `ended_s` for sweeps.
    if result and (noted is None or result.get("ended_s", math.inf) >= noted["time_s"]):
        return result["status"], silent_s
    return ("RUNNING" if silent_s < SILENT_S else "SILENT"), silent_s


def read(run_dir: Path) -> RunStatus:
    """Read the status of a run.

    Raises:
        UsageError: `run_dir` is not a run directory.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UsageError(f"{run_dir} is not a run directory (it has no config.yaml)")
    config = read_config(run_dir.absolute())
    noted, (status, silent_s) = _read_note(run_dir / "status.json"), state(run_dir)
    lines = metrics_lines.read(run_dir / "metrics.jsonl")
    steps, epochs = metrics_lines.of_kind(lines, "step"), metrics_lines.of_kind(lines, "epoch")
    known_by = tracked(config, run_dir)
    step, total = (steps[-1]["step"] if steps else 0), (noted["total_steps"] if noted else None)
    if config.search:
        step = len(list(run_dir.glob("trials/*/trial.json")))
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
        "waiting": noted["waiting"] if noted and status == "RUNNING" else None,
        "nodes": noted["nodes"] if noted else [],
        "mlflow_ui": ui_command(known_by[0]),
        "mlflow_link": link(*known_by),
    }


def _eta_s(steps: list[MetricsLine], total: int | None) -> float | None:
    """Seconds to the end, estimated from the last 100 steps."""
    recent = steps[-100:]
    if total is None or len(recent) < 2 or recent[-1]["time_s"] <= recent[0]["time_s"]:
        return None
    pace_s = (recent[-1]["time_s"] - recent[0]["time_s"]) / (recent[-1]["step"] - recent[0]["step"])
    return round(pace_s * (total - recent[-1]["step"]), 1)


def _read_note(path: Path) -> StatusNote | None:
    """Read `status.json`. None if the run has not started."""
    return cast("StatusNote", json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
