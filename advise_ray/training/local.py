"""The whole loop on one page: a run in this process, on one device, without Ray and without MLflow.

    result = train_here(load("recipe.yaml", ["data.manifest=clips.parquet", "tracking.run_name=first"]))

`trainer.train` writes the same run directory, with the same numbers. There Ray Data decodes, several workers share
each step, and what dies is started again.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from advise_ray.config import Config, to_yaml
from advise_ray.files import write_whole
from advise_ray.model.ifm import IFM
from advise_ray.training import checkpoint
from advise_ray.training.plan import Plan, make_plan
from advise_ray.training.result import write_result
from advise_ray.training.worker import Worker
from advise_ray.video.manifest import write_rejects


def run_dir_of(config: Config) -> Path:
    """`<storage.path>/<tracking.run_name>`; a run without a name is called by its task and the time."""
    name = config.tracking.run_name or f"{config.task}-{datetime.now():%Y%m%d-%H%M%S}"
    return Path(config.storage.path) / name


def begin(config: Config, run_dir: Path) -> None:
    """Make the directory of a run, with what is in it from the first moment on; one that has begun stays as it is."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "config.yaml", to_yaml(config))
    if not (run_dir / "rejects.parquet").exists():
        write_rejects([], run_dir / "rejects.parquet")


def worker_here(plan: Plan, run_dir: Path, processes_on_node: int = 1) -> Worker:
    """The only worker of a run, from its last checkpoint on; it reads its clips itself."""
    device = torch.device("cuda" if plan.shares.use_gpu else "cpu")
    return Worker(
        plan.job(run_dir),
        videos=plan.videos,
        weights=plan.weights(),
        device=device,
        processes_on_node=processes_on_node,
    )


def train_here(config: Config, *, ifm: IFM | None = None) -> dict[str, Any]:
    """Train to the end, in a new run directory or from the last checkpoint of one that has begun.

    Args:
        ifm: see `model.advise.build_advise`.

    Returns:
        What `result.json` holds.

    Raises:
        UsageError, ConfigError: before anything is written.
        TrainingError: the run stopped; its directory says how far it came.
    """
    started_s, run_dir = time.monotonic(), run_dir_of(config)
    plan = make_plan(config, begun=checkpoint.latest(run_dir) is not None, ifm=ifm)
    begin(config, run_dir)
    for _epoch in worker_here(plan, run_dir).epochs():
        pass  # after each, `Worker.state.metrics` are its metrics
    return write_result(plan, run_dir, None, "FINISHED", started_s)
