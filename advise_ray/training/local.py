"""The whole loop on one page: a run in this process, on one device. It starts neither Ray nor MLflow.

    result = train_here(load(Path("recipe.yaml"), ["data.manifest=clips.parquet", "tracking.run_name=first"]))

What happens in it, in this order:

    make_plan             videos, classes and the model, from the configuration and the manifest
    Schedule.batches      which clips of which videos make up each batch
    clips.read_here       clips as they are decoded, or as a feature cache has them
    Learner.train_step    image model → SFU → TMM → head → loss → optimizer
    MetricsWriter              metrics.jsonl, rejects.parquet
    checkpoint.save       TMM, head and optimizer

`trainer.train` gives the same losses and checkpoints. There Ray Data decodes, several workers share each step, what
dies is started again, and MLflow records the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from advise_ray.backend.resources import Shares
from advise_ray.config import Config, load
from advise_ray.errors import UsageError
from advise_ray.model.ifm import IFM
from advise_ray.training import checkpoint
from advise_ray.training.plan import Plan, make_plan, refuse_other_manifest
from advise_ray.training.run_dir import begin, run_dir_of
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
    """Train to the end: in a new run directory, or from the last checkpoint of one with the same configuration.

    Args:
        on_epoch: called after each epoch (from 0) with its metrics.
        ifm, processes_on_node: see `open_here`.

    Returns:
        What `result.json` holds.

    Raises:
        UsageError, ConfigError: before anything is written.
        TrainingError: the run stopped; its directory says how far it came.
    """
    begun = run_dir_of(config) / "config.yaml"
    if begun.exists() and load(begun) != config:
        raise UsageError(f"{begun.parent} is a run of another configuration; choose another tracking.run_name")
    started_s = time.monotonic()
    plan, worker = open_here(config, ifm=ifm, processes_on_node=processes_on_node)
    ended = "FAILED"
    try:
        for epoch in worker.epochs():
            on_epoch(epoch, worker.state.metrics)
        ended = "FINISHED"
    finally:
        result = write_result(plan, worker.spec.run_dir, None, ended, started_s)
    return result


def open_here(
    config: Config, *, ifm: IFM | None = None, processes_on_node: int = 1, told: Callable[[], bool] = lambda: False
) -> tuple[Plan, Worker]:
    """The plan of a run and its only worker, from the last checkpoint on.

    Args:
        ifm: see `model.advise.build_advise`.
        processes_on_node: that share the cores.
        told: see `Worker`.

    Raises:
        UsageError, ConfigError: before anything is written.
    """
    use_gpu = torch.cuda.is_available() if config.train.use_gpu is None else config.train.use_gpu
    alone = Shares(1, len(os.sched_getaffinity(0)) / processes_on_node, 0, 0.0, use_gpu)
    run_dir = run_dir_of(config)
    last = checkpoint.latest(run_dir)
    plan = make_plan(config, begun=last is not None, ifm=ifm, shares=alone)
    refuse_other_manifest(plan, last)
    begin(config, run_dir)
    worker = Worker(
        plan.worker_spec(run_dir),
        videos=plan.videos,
        weights=plan.weights(),
        device=torch.device("cuda" if use_gpu else "cpu"),
        processes_on_node=processes_on_node,
        told=told,
    )
    return plan, worker
