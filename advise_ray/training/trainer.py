"""The driver of a run: creates the directory, starts tracking and Ray Train, writes the result.

The run directory holds the complete state of a run; tracking is a copy of it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from advise_ray import tracking
from advise_ray.backend import process_env, resource_wait, session, shutdown_notice
from advise_ray.backend.reservation import for_run
from advise_ray.backend.resource_wait import Waiting, refuse_longer
from advise_ray.backend.shutdown_notice import Notice
from advise_ray.backend.train_controller import RESIZE_CHECK_S, RayTrainer, held
from advise_ray.config import Config, load, worker_counts
from advise_ray.errors import (
    AdviseRayError,
    InterruptedRunError,
    ResourcesError,
    TrackingError,
    TrainingError,
    UsageError,
)
from advise_ray.storage.atomic import size_bytes, write_whole
from advise_ray.storage.retry import PATIENCE_S, PAUSE_S, patiently
from advise_ray.tracking import RunTracker
from advise_ray.training import cards, checkpoint, status
from advise_ray.training.clip_stream import ClipStream, StreamConfig
from advise_ray.training.metrics_lines import MetricsLine, follow
from advise_ray.training.plan import Plan, make_plan, refuse_other_manifest
from advise_ray.training.ray_worker import run
from advise_ray.training.run_dir import begin, run_dir_of
from advise_ray.training.run_result import RunResult, read_result, write_result
from advise_ray.training.worker_spec import streams

log = logging.getLogger("advise_ray")

NOTE_EVERY_S = 10.0
OnLine = Callable[[MetricsLine, int], None]


def _ignore(_line: MetricsLine, _total_steps: int) -> None:
    pass


def train(config: Config, *, on_line: OnLine = _ignore) -> RunResult:
    """Train a configuration in a new run directory.

    Args:
        on_line: called in this thread with each new line of `metrics.jsonl` and the number of steps of the run.

    Returns:
        The content of `result.json`.

    Raises:
        UsageError, ConfigError: the run cannot start. Nothing has been written.
        TrackingError: the tracking server does not answer. Raised before anything is written, or later, after retries.
        ResourcesError: the run did not get its CPUs or GPUs within `train.max_wait_s`.
        TrainingError: the run stopped. Its directory holds everything up to the last checkpoint.
        InterruptedRunError: on SIGINT or SIGTERM, or KeyboardInterrupt; see `train.grace_s`.
    """
    plan = make_plan(config)
    run_dir = run_dir_of(config)
    if run_dir.exists():
        raise UsageError(
            f"{run_dir} exists; resume it with `advise-ray train --resume {run_dir}`, or choose another "
            "tracking.run_name"
        )
    return _TrainingRun(plan, run_dir, on_line).execute()


def resume(run_dir: Path, *, on_line: OnLine = _ignore) -> RunResult:
    """Resume a run from its last checkpoint, with its own configuration. A finished run is only reported again.

    Raises:
        UsageError: `run_dir` is not a run directory.
    """
    run_dir = run_dir.absolute()
    if not (run_dir / "config.yaml").is_file():
        raise UsageError(f"--resume: {run_dir} is not a run directory (it has no config.yaml)")
    result = read_result(run_dir)
    if result is not None and result["status"] == "FINISHED":
        result["tracking_complete"] = True
        try:
            RunTracker.sync(run_dir)
        except TrackingError as error:
            log.warning("%s", error)
            result["tracking_complete"] = False
        return result
    last = checkpoint.latest(run_dir)
    plan = make_plan(load(run_dir / "config.yaml"), begun=last is not None)
    refuse_other_manifest(plan, last)
    return _TrainingRun(plan, run_dir, on_line).execute()


class _TrainingRun:
    def __init__(self, plan: Plan, run_dir: Path, on_line: OnLine) -> None:
        self.plan, self.config, self.run_dir = plan, plan.config, run_dir
        self.on_line = on_line
        self.started_s = time.monotonic()
        self.tracker = RunTracker(self.config, run_dir)
        self.waiting: str | None = None
        self.tagged_s = -math.inf

    def execute(self) -> RunResult:
        if self.config.tracking.uri is not None:
            tracking.check(self.config)  # report a missing server before anything is written
        begin(self.config, self.run_dir)
        for note in self.plan.notes():
            log.warning("note: %s", note)
        try:
            self._fit()
        except (KeyboardInterrupt, InterruptedRunError):
            self._try_to_end("KILLED")
            last = checkpoint.latest(self.run_dir)
            saved = f"step {checkpoint.read_state(last).step} is saved" if last else "no step is saved"
            how_to_resume = f"resume with: advise-ray train --resume {self.run_dir}"
            raise InterruptedRunError(f"interrupted; {saved}; {how_to_resume}") from None
        except BaseException:
            self._try_to_end("FAILED")
            raise
        return self._end("FINISHED")

    def _try_to_end(self, ended: str) -> None:
        """Like `_end`, but only log a failure to write: the error that ended the run (a full disk?) matters more."""
        try:
            self._end(ended)
        except OSError as error:
            log.warning("cannot write the result of the run: %s", error)

    def _end(self, ended: str) -> RunResult:
        if ended != "FINISHED":
            session.disconnect()  # ends the run's actors on all nodes
        result = patiently(lambda: write_result(self.plan, self.run_dir, self.tracker.run_id, ended, self.started_s))
        if self.tracker.run_id is None:
            result["tracking_complete"] = False
            return result
        described, best = ([], None) if ended != "FINISHED" else (self._write_cards(result), result["best_checkpoint"])
        model = Path(best) if best is not None else None
        result["tracking_complete"] = self.tracker.finish(ended, described, model=model)
        return result

    def _write_cards(self, result: RunResult) -> list[Path]:
        """Write the cards of a finished run. Failing to write them (full disk, moved manifest) never fails the run."""
        model, data = self.run_dir / "model_card.md", self.run_dir / "data_card.md"
        try:
            write_whole(model, cards.model_card(self.config, result, self.plan.classes))
            write_whole(data, cards.data_card(self.config, self.run_dir))
        except (AdviseRayError, OSError) as error:
            log.warning("cannot write the model card and the data card: %s", error)
        return [model, data]

    def _fit(self) -> None:
        session.connect()
        metrics = self.run_dir / "metrics.jsonl"
        before = size_bytes(metrics)
        # The file's size counts: `_follow` starts once the tracking server has answered, perhaps after the first steps.
        with shutdown_notice.awaited(
            str(self.run_dir), self.config.train.grace_s, lambda: size_bytes(metrics) > before
        ) as noticed:
            outcome = self._run_workers(self._follow(noticed), noticed)
        if "error" in outcome.return_value:
            raise TrainingError(outcome.return_value["error"])
        if "interrupted" in outcome.return_value:
            raise InterruptedRunError(outcome.return_value["interrupted"])

    def _run_workers(self, following: Iterator[None], noticed: Notice) -> ray.train.Result:
        """Run the workers, and meanwhile report what they write. Returns their result."""

        def meanwhile(waiting: Waiting | None) -> None:
            self._report_wait(waiting)
            next(following)

        try:
            with tempfile.TemporaryDirectory(prefix="advise-ray-") as scratch:
                outcome = self._trainer(meanwhile, scratch).fit()
        except ResourcesError as error:
            raise ResourcesError(f"{error}; resume with: advise-ray train --resume {self.run_dir}") from None
        except (ray.exceptions.RayActorError, TrainingFailedError) as error:
            if noticed.given:  # Ray's processes got the same signal and ended first
                raise KeyboardInterrupt from error
            if isinstance(error, ControllerError) and isinstance(error.controller_failure, AdviseRayError):
                raise error.controller_failure from None
            raise TrainingError(_message(error, self.run_dir)) from error
        next(following)
        return outcome

    def _report_wait(self, waiting: Waiting | None) -> None:
        """Report what the run waits for, while it waits.

        Raises:
            ResourcesError: the wait took longer than `train.max_wait_s`.
        """
        if waiting is None and self.waiting is None:
            return
        self.waiting = str(waiting) if waiting is not None else None
        resource_wait.show(self.waiting)
        if time.monotonic() > self.tagged_s + NOTE_EVERY_S or waiting is None:
            self.tracker.tag("waiting", self.waiting or "no")
            self.tagged_s = time.monotonic()
        if waiting is not None:
            refuse_longer(waiting, self.config.train.max_wait_s)

    def _follow(self, noticed: Notice) -> Iterator[None]:
        """At each `next`: report new metrics lines, write the status, and pass a shutdown notice on to the workers."""
        self._start_tracking()  # while the workers start
        metrics = self.run_dir / "metrics.jsonl"
        self.tracker.follow(metrics)
        noted_s = -math.inf
        for lines in follow(metrics):
            if time.monotonic() > noted_s + NOTE_EVERY_S:
                with contextlib.suppress(OSError):  # the workers report storage that does not answer
                    status.note(self.run_dir, self.plan.schedule.total_steps, self.waiting)
                noted_s = time.monotonic()
            for line in lines:
                self.on_line(line, self.plan.schedule.total_steps)
            if noticed.given:
                noticed.pass_on()
            yield

    def _start_tracking(self) -> None:
        """Start tracking. Retries for PATIENCE_S: the server, or the storage, answered earlier in this run."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.tracker.start(device="cuda" if self.plan.shares.use_gpu else "cpu")
                return
            except TrackingError as error:
                lasting = self.config.tracking.uri is None and self.run_dir.exists()
                if lasting or time.monotonic() > deadline_s:
                    raise TrackingError(f"{error}; then: advise-ray train --resume {self.run_dir}") from None
                log.warning("%s; retrying", error)
            time.sleep(PAUSE_S)

    def _trainer(self, meanwhile: Callable[[Waiting | None], None], scratch: str) -> RayTrainer:
        """Create the trainer.

        Args:
            scratch: an empty folder as Ray Train's storage. Ray Train stores nothing there, but it creates the folder.
                If it got the run's storage, it would create that folder anew while the storage is not mounted.
        """
        config, shares = self.config, self.plan.shares
        videos = ray.put(self.plan.videos)
        spec = self.plan.worker_spec(self.run_dir, videos=videos, weights=ray.put(self.plan.weights()))
        run_dir, schedule = self.run_dir, self.plan.schedule

        def stream() -> ClipStream:
            """Called at each start of the worker group. The stream begins at the step of the last checkpoint."""
            last = patiently(lambda: checkpoint.latest_of_run(run_dir))
            state = patiently(lambda: checkpoint.read_state(last)) if last else checkpoint.State()
            owes = state.owes_validation(schedule.steps_per_epoch)
            return ClipStream(config, schedule, videos, state.step, *held(), owes)

        counts = worker_counts(config)
        return RayTrainer(
            run,
            room=for_run(config, shares, decodes=streams(config)),
            resize_check_s=RESIZE_CHECK_S,
            meanwhile=meanwhile,
            train_loop_config={"spec": spec},
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
            datasets={"clips": stream} if streams(config) else {},
            dataset_config=StreamConfig(),
        )


def _message(error: ray.exceptions.RayActorError | TrainingFailedError, run_dir: Path) -> str:
    """One line: the innermost cause, and the command that resumes the run."""
    how_to_resume = f"resume with: advise-ray train --resume {run_dir}"
    if isinstance(error, ray.exceptions.RayActorError):  # Ray Train does not restart its controller
        first_line = str(error).strip().split("\n", 1)[0]
        return f"the run's controller died ({first_line}); {how_to_resume}"
    failures = getattr(error, "worker_failures", {})
    cause = next(iter(failures.values()), error)
    last_line = str(cause).strip().splitlines()[-1]
    return f"the workers kept failing: {last_line}; {how_to_resume}"
