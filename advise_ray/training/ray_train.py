"""Runs the workers with Ray Train. Meanwhile the driver reports their metrics, and what the run waits for."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from advise_ray.backend import process_env, resource_wait, session, shutdown_notice
from advise_ray.backend.reservation import for_run
from advise_ray.backend.resource_wait import Waiting, refuse_longer
from advise_ray.backend.shutdown_notice import Notice
from advise_ray.backend.train_controller import RESIZE_CHECK_S, RayTrainer
from advise_ray.config import worker_counts
from advise_ray.errors import AdviseRayError, InterruptedRunError, ResourcesError, TrackingError, TrainingError
from advise_ray.storage.atomic import size_bytes
from advise_ray.storage.retry import PATIENCE_S, PAUSE_S
from advise_ray.tracking import RunTracker
from advise_ray.training import determinism, ray_worker, status
from advise_ray.training.metrics_lines import MetricsLine, follow
from advise_ray.training.plan import Plan
from advise_ray.training.worker_spec import streams

log = logging.getLogger("advise_ray")

OnLine = Callable[[MetricsLine, int], None]


def run_workers(plan: Plan, run_dir: Path, tracker: RunTracker, on_line: OnLine) -> None:
    """Run the workers of a run, from its last checkpoint to the end of the training.

    Args:
        tracker: the run in MLflow; it is started here, while the workers start.
        on_line: see `trainer.train`.

    Raises:
        ResourcesError, TrackingError, TrainingError, InterruptedRunError, KeyboardInterrupt: see `trainer.train`.
    """
    session.connect()
    metrics = run_dir / "metrics.jsonl"
    before = size_bytes(metrics)
    with (
        shutdown_notice.awaited(
            str(run_dir), plan.config.train.grace_s, lambda: size_bytes(metrics) > before
        ) as noticed,
        tempfile.TemporaryDirectory(prefix="advise-ray-") as scratch,
    ):
        report = _Report(plan, run_dir, tracker, on_line, noticed)
        try:
            ended = _trainer(plan, run_dir, report, scratch).fit().return_value
        except ResourcesError as error:
            raise ResourcesError(f"{error}; {_how_to_resume(run_dir)}") from None
        except (ray.exceptions.RayActorError, TrainingFailedError) as error:
            if noticed.given:  # Ray's processes got the same signal and ended first
                raise KeyboardInterrupt from error
            if isinstance(error, ControllerError) and isinstance(error.controller_failure, AdviseRayError):
                raise error.controller_failure from None
            raise TrainingError(_message(error, run_dir)) from error
        report(None)
        while not report.tracks:  # a short run, whose tracking server does not answer yet
            time.sleep(PAUSE_S)
            report(None)
    if "error" in ended:
        raise TrainingError(ended["error"])
    if "interrupted" in ended:
        raise InterruptedRunError(ended["interrupted"])
    determinism.tell(ended["nondeterministic"])


class _Report:
    """Called regularly by the driver while the workers run. The argument is what the run waits for, or None."""

    def __init__(self, plan: Plan, run_dir: Path, tracker: RunTracker, on_line: OnLine, noticed: Notice) -> None:
        self.plan, self.run_dir, self.tracker = plan, run_dir, tracker
        self.on_line, self.noticed = on_line, noticed
        self.lines = follow(run_dir / "metrics.jsonl")
        next(self.lines)  # those of an earlier start of the run
        self.waiting: str | None = None
        self.tagged_s = self.noted_s = -math.inf
        self.tracks = False
        """Whether the run is in MLflow."""
        self.try_s, self.give_up_s = -math.inf, math.inf
        self.refusals = 0
        """How often in a row the run could not be logged to a store in its storage, while the storage was there."""

    def __call__(self, waiting: Waiting | None) -> None:
        """Report the wait and new metrics lines, write the status, and pass a shutdown notice on to the workers."""
        if self.noticed.given:
            self.noticed.pass_on()
        if waiting is not None or self.waiting is not None:
            self._report_wait(waiting)
        if not self.tracks and time.monotonic() > self.try_s:
            self._start_tracking()
        total_steps = self.plan.schedule.total_steps
        if time.monotonic() > self.noted_s + status.NOTE_EVERY_S:
            with contextlib.suppress(OSError):  # the workers report storage that does not answer
                status.note(self.run_dir, total_steps, self.waiting)
                self.noted_s = time.monotonic()
        for line in next(self.lines):
            self.on_line(line, total_steps)

    def _report_wait(self, waiting: Waiting | None) -> None:
        """Report what the run waits for, or that it does not wait any more.

        Raises:
            ResourcesError: the wait took longer than `train.max_wait_s`.
        """
        self.waiting = str(waiting) if waiting is not None else None
        resource_wait.show(self.waiting)
        if time.monotonic() > self.tagged_s + status.NOTE_EVERY_S or waiting is None:
            self.tracker.tag("waiting", self.waiting or "no")
            self.tagged_s = time.monotonic()
        if waiting is not None:
            refuse_longer(waiting, self.plan.config.train.max_wait_s)

    def _start_tracking(self) -> None:
        """Start tracking. Fails only after PATIENCE_S: the server, or the storage, answered earlier in this run.

        Raises:
            TrackingError: the server does not answer, or the store cannot be written.
        """
        try:
            device = "cuda" if self.plan.shares.use_gpu else "cpu"
            self.tracker.start(device, data_sets=self.plan.data_sets)
            self.tracks = True
        except TrackingError as error:
            now_s = time.monotonic()
            self.try_s, self.give_up_s = now_s + PAUSE_S, min(self.give_up_s, now_s + PATIENCE_S)
            is_there = self.plan.config.tracking.uri is None and size_bytes(self.run_dir / "config.yaml") > 0
            self.refusals = self.refusals + 1 if is_there else 0  # the first may be the end of an outage
            if self.refusals > 1 or now_s > self.give_up_s:
                raise TrackingError(f"{error}; then: advise-ray train --resume {self.run_dir}") from None
            log.warning("%s; retrying", error)


def _trainer(plan: Plan, run_dir: Path, report: Callable[[Waiting | None], None], scratch: str) -> RayTrainer:
    """Create the trainer.

    Args:
        scratch: an empty folder as Ray Train's storage. Ray Train stores nothing there, but it creates the folder.
            If it got the run's storage, it would create that folder anew while the storage is not mounted.
    """
    config, shares, videos = plan.config, plan.shares, ray.put(plan.videos)
    counts = worker_counts(config)
    return RayTrainer(
        ray_worker.run,
        room=for_run(config, shares, decodes=streams(config)),
        resize_check_s=RESIZE_CHECK_S,
        meanwhile=report,
        train_loop_config={"spec": ray.put(plan.worker_spec(run_dir, videos=videos, weights=ray.put(plan.weights())))},
        torch_config=TorchConfig(backend="nccl" if shares.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(counts[-1], counts[0]) if len(counts) > 1 else counts[0],
            use_gpu=shares.use_gpu,
            resources_per_worker=shares.worker_bundle,
        ),
        run_config=ray.train.RunConfig(
            name=run_dir.name,
            storage_path=scratch,
            worker_runtime_env=session.environment(process_env.ENVIRONMENT),
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
        ),
    )


def _message(error: ray.exceptions.RayActorError | TrainingFailedError, run_dir: Path) -> str:
    """One line: the innermost cause, and the command that resumes the run."""
    if isinstance(error, ray.exceptions.RayActorError):  # Ray Train does not restart its controller
        first_line = str(error).strip().split("\n", 1)[0]
        return f"the run's controller died ({first_line}); {_how_to_resume(run_dir)}"
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.values()), error)
    last_line = str(cause).strip().splitlines()[-1]
    return f"the workers kept failing: {last_line}; {_how_to_resume(run_dir)}"


def _how_to_resume(run_dir: Path) -> str:
    return f"resume with: advise-ray train --resume {run_dir}"
