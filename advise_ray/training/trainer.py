"""The driver of a run: creates the directory, trains with Ray, writes the result.

The run directory holds the complete state of a run; tracking is a copy of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from advise_ray import tracking
from advise_ray.backend import session
from advise_ray.config import Config, load
from advise_ray.errors import AdviseRayError, InterruptedRunError, TrackingError
from advise_ray.storage.atomic import refuse_unwritable, write_whole
from advise_ray.storage.retry import patiently
from advise_ray.tracking import RunTracker
from advise_ray.training import cards, checkpoint
from advise_ray.training.metrics_lines import MetricsLine
from advise_ray.training.plan import Plan, make_plan, refuse_other_manifest
from advise_ray.training.ray_train import OnLine, run_workers
from advise_ray.training.run_dir import (
    create,
    locked,
    refuse_existing,
    refuse_no_run,
    resumed_config,
    run_dir_of,
    write_config,
)
from advise_ray.training.run_result import RunResult, read_result, write_result

log = logging.getLogger("advise_ray")


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
        InterruptedRunError: SIGINT, SIGTERM or a KeyboardInterrupt stopped the run, see `train.grace_s`.
    """
    refuse_existing(config)
    refuse_unwritable(run_dir_of(config) / "config.yaml", "storage.path")
    plan = make_plan(config)
    _check_tracking(config)
    run_dir = create(config)
    with locked(run_dir):
        return _run(plan, run_dir, on_line)


def resume(run_dir: Path, overrides: Sequence[str] = (), *, on_line: OnLine = _ignore) -> RunResult:
    """Resume a run from its last checkpoint, with its own configuration.

    If the run has finished and gets no more epochs, only return its result.

    Args:
        overrides: `key=value` changes that a resumed run can take, see `run_dir.resumed_config`.

    Raises:
        UsageError, ConfigError: `run_dir` is not a run directory, or the run cannot take the changes.
    """
    run_dir = run_dir.absolute()
    refuse_no_run(run_dir)
    with locked(run_dir):
        result, last = read_result(run_dir), checkpoint.latest(run_dir)
        finished_epochs = result["epochs"] if result is not None and result["status"] == "FINISHED" else 0
        config = resumed_config(run_dir, overrides, finished_epochs=finished_epochs)
        if result is not None and finished_epochs >= config.train.epochs:
            if config != load(run_dir / "config.yaml"):
                write_config(config, run_dir)
            return _report_again(result, run_dir)
        plan = make_plan(config, begun=last is not None)
        refuse_other_manifest(plan, last)
        _check_tracking(config)
        write_config(config, run_dir)
        return _run(plan, run_dir, on_line)


def _report_again(result: RunResult, run_dir: Path) -> RunResult:
    """The result of a finished run, with its present paths if it was moved. MLflow gets what it has missed."""
    last, best = checkpoint.latest(run_dir), checkpoint.best(run_dir)
    result["run_name"], result["run_dir"] = run_dir.name, str(run_dir)
    result["checkpoint"], result["best_checkpoint"] = str(last) if last else None, str(best) if best else None
    result["tracking_complete"] = True
    try:
        RunTracker.sync(run_dir)
    except TrackingError as error:
        log.warning("%s", error)
        result["tracking_complete"] = False
    return result


def _check_tracking(config: Config) -> None:
    """Report what is wrong with MLflow before anything is written, and where the run is logged."""
    tracking.check(config)
    log.info("logging to MLflow at %s", tracking.destination(config))


def _run(plan: Plan, run_dir: Path, on_line: OnLine) -> RunResult:
    """Train in a run directory, from its last checkpoint. Write the result, also of a run that fails."""
    started_s = time.monotonic()
    for note in plan.notes():
        log.warning("note: %s", note)
    tracker = patiently(lambda: RunTracker(plan.config, run_dir))
    try:
        run_workers(plan, run_dir, tracker, on_line)
    except (KeyboardInterrupt, InterruptedRunError):
        result = _try_to_end(plan, run_dir, tracker, "KILLED", started_s)
        how_to_resume = f"resume with: advise-ray train --resume {run_dir}"
        if result is None:
            raise InterruptedRunError(f"interrupted; {how_to_resume}") from None
        saved = f"step {result['steps']} is saved" if result["checkpoint"] else "no step is saved"
        raise InterruptedRunError(f"interrupted; {saved}; {how_to_resume}") from None
    except BaseException:
        _try_to_end(plan, run_dir, tracker, "FAILED", started_s)
        raise
    return _end(plan, run_dir, tracker, "FINISHED", started_s)


def _try_to_end(plan: Plan, run_dir: Path, tracker: RunTracker, ended: str, started_s: float) -> RunResult | None:
    """Like `_end`, but only log a failure to write: the error that ended the run (a full disk?) matters more."""
    session.disconnect()  # ends the run's actors on all nodes
    try:
        return _end(plan, run_dir, tracker, ended, started_s)
    except OSError as error:
        log.warning("cannot write the result of the run: %s", error)
        return None


def _end(plan: Plan, run_dir: Path, tracker: RunTracker, ended: str, started_s: float) -> RunResult:
    """Write the result and, of a finished run, the cards; log both to MLflow."""
    result = patiently(lambda: write_result(plan, run_dir, tracker.run_id, ended, started_s))
    if tracker.run_id is None:
        result["tracking_complete"] = False
        return result
    described: list[Path] = []
    model: Path | None = None
    if ended == "FINISHED":
        described = _write_cards(plan, run_dir, result)
        model = Path(result["best_checkpoint"]) if result["best_checkpoint"] is not None else None
    result["tracking_complete"] = tracker.finish(ended, described, model=model)
    return result


def _write_cards(plan: Plan, run_dir: Path, result: RunResult) -> list[Path]:
    """Write the cards of a finished run. Failing to write them (full disk, moved manifest) never fails the run."""
    model, data = run_dir / "model_card.md", run_dir / "data_card.md"
    try:
        write_whole(model, cards.model_card(plan.config, result, plan.classes))
        write_whole(data, patiently(lambda: cards.data_card(plan.config, run_dir)))
    except (AdviseRayError, OSError) as error:
        log.warning("cannot write the model card and the data card: %s", error)
    return [model, data]
