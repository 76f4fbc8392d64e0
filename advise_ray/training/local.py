"""The complete training loop: a run in this process, on one device, without Ray and MLflow.

    result = train_here(load(Path("recipe.yaml"), ["data.manifest=clips.parquet", "tracking.run_name=first"]))

The loop does these steps, in this order:

    make_plan             videos, classes and the model, from the configuration and the manifest
    Schedule.batches      the clips of each batch
    clip_reader.read_here decoded clips, or clips from a feature cache
    Learner.train_step    image model → SFU → TMM → head → loss → optimizer
    MetricsWriter         metrics.jsonl, rejects.parquet
    checkpoint.save       TMM, head and optimizer

`trainer.train` gives the same losses and checkpoints. There Ray Data decodes, several workers share each step, failed
processes are restarted, and MLflow records the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from advise_ray.backend.processes import Shares
from advise_ray.config import Config
from advise_ray.errors import UsageError
from advise_ray.model.ifm import IFM
from advise_ray.storage.retry import patiently
from advise_ray.training import checkpoint, determinism
from advise_ray.training.plan import Plan, make_plan, refuse_other_manifest
from advise_ray.training.run_dir import read_config, run_dir_of, write_config
from advise_ray.training.run_result import RunResult, write_result
from advise_ray.training.worker import Worker

OnEpoch = Callable[[int, dict[str, float]], None]


def train_here(
    config: Config,
    *,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    ifm: IFM | None = None,
    processes_on_node: int = 1,
) -> RunResult:
    """Train to the end, in a new run directory or from the last checkpoint of a run with the same configuration.

    Args:
        on_epoch: called after each epoch (from 0) with its metrics.
        ifm, processes_on_node: see `open_here`.

    Returns:
        The content of `result.json`.

    Raises:
        UsageError, ConfigError: the run cannot start. Nothing has been written.
        TrainingError: the run stopped. Its directory holds everything up to the last checkpoint.
    """
    run_dir = run_dir_of(config)
    if (run_dir / "config.yaml").exists() and read_config(run_dir) != config:
        raise UsageError(f"{run_dir} is a run with another configuration; choose another tracking.run_name")
    started_s = time.monotonic()
    plan, worker = open_here(config, ifm=ifm, processes_on_node=processes_on_node)
    ended = "FAILED"
    try:
        for epoch in worker.epochs():
            on_epoch(epoch, worker.state.metrics)
        ended = "FINISHED"
        determinism.tell(worker.nondeterministic)
    finally:
        result = patiently(lambda: write_result(plan, worker.spec.run_dir, None, ended, started_s))
    return result


def open_here(
    config: Config,
    *,
    ifm: IFM | None = None,
    processes_on_node: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Plan, Worker]:
    """Return the plan of a run and its only worker, with the last checkpoint loaded.

    Args:
        ifm: see `model.advise.build_advise`.
        processes_on_node: number of processes that share the cores of this machine.
        should_stop: see `Worker`.

    Raises:
        UsageError, ConfigError: the run cannot start. Nothing has been written.
    """
    use_gpu = torch.cuda.is_available() if config.train.use_gpu is None else config.train.use_gpu
    alone = Shares(1, len(os.sched_getaffinity(0)) / processes_on_node, 0, 0.0, use_gpu)
    run_dir = run_dir_of(config)
    last = checkpoint.latest(run_dir) if run_dir.exists() else None
    plan = make_plan(config, begun=last is not None, ifm=ifm, shares=alone)
    refuse_other_manifest(plan, last)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_config(config, run_dir)
    worker = Worker(
        plan.worker_spec(run_dir),
        videos=plan.videos,
        weights=plan.weights(),
        device=torch.device("cuda" if use_gpu else "cpu"),
        processes_on_node=processes_on_node,
        should_stop=should_stop,
    )
    return plan, worker
