"""`tune`: runs a search space's trials and writes a table, figures and the best trial's recipes.

The sweep's directory is the source of truth. Tune's own state is created anew at each start.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from advise_ray import tracking
from advise_ray.backend import nodes, resource_wait, session
from advise_ray.backend.processes import Node, Shares
from advise_ray.backend.reservation import await_resources
from advise_ray.config import Config, recipes, to_yaml
from advise_ray.errors import InterruptedRunError, SweepError, TrackingError, UsageError
from advise_ray.storage.atomic import write_whole
from advise_ray.storage.retry import patiently
from advise_ray.sweep.features import FEATURE_KEYS, check_features, make_features, refuse_unfit
from advise_ray.sweep.fit import run_trials
from advise_ray.sweep.settings import FINETUNED, finetuning, pretraining, resolve, settings_of
from advise_ray.sweep.space import Settings, possible
from advise_ray.sweep.sweep_result import SweepResult, write_result
from advise_ray.sweep.trial import Sweep
from advise_ray.sweep.trial_data import data_sets_of, refuse_untestable
from advise_ray.sweep.trial_result import is_number, read_trials
from advise_ray.sweep.tune_callback import TrialCallback
from advise_ray.tracking import RunTracker
from advise_ray.training import status
from advise_ray.training.run_dir import locked, read_config

log = logging.getLogger("advise_ray")

OnEvent = Callable[[str], None]
"""Called with a progress message."""


def tune(config: Config, *, on_event: OnEvent = lambda line: None) -> SweepResult:
    """Run a sweep in a new directory.

    Returns:
        The content of `result.json`.

    Raises:
        UsageError, ConfigError: every problem of the search space, before anything is written.
        SweepError: no trial has finished.
        InterruptedRunError: on KeyboardInterrupt. Finished trials and checkpoints are kept.
    """
    config = resolve(config)
    directory = Path(config.storage.path) / (config.tracking.run_name or f"sweep-{datetime.now():%Y%m%d-%H%M%S}")
    if directory.exists():
        raise UsageError(
            f"{directory} exists; resume it with `advise-ray tune --resume {directory}`, or choose another "
            "tracking.run_name"
        )
    return _SweepRun(config, directory, on_event).execute()


def resume(directory: Path, *, on_event: OnEvent = lambda line: None) -> SweepResult:
    """Resume a sweep. Trials that have ended are not repeated.

    Raises:
        UsageError: this is not a sweep's directory, or another process is running the sweep.
    """
    directory = directory.absolute()
    if not (directory / "config.yaml").is_file() or not (config := read_config(directory)).search:
        raise UsageError(f"--resume: {directory} is not a sweep (it has no config.yaml with a search)")
    return _SweepRun(config, directory, on_event).execute()


class _SweepRun:
    def __init__(self, config: Config, directory: Path, on_event: OnEvent) -> None:
        self.config, self.directory, self.on_event = config, directory, on_event
        self.settings = settings_of(config)
        self.started_s = time.monotonic()
        self.trained = list(_trained(config, self.settings))
        refuse_unfit(self.trained)
        objective = config.tune.objective
        judged = [each for each in self.trained if objective not in FINETUNED or each.task == "action"]
        refuse_untestable(judged, objective, config.tune.judged_by)
        if not directory.exists():
            check_features(self.trained, directory, on_event)
        session.connect()
        tracking.check(config)  # report what is wrong with MLflow before anything is written
        self.trial, rooms = _one_trial(config, nodes.most_nodes(config))
        self.num_trials = len(self.settings) or config.tune.num_trials
        self.concurrent = min(sum(rooms), self.num_trials, config.tune.max_concurrent or sum(rooms))
        on_node = min(max(rooms), math.ceil(self.concurrent / len(session.nodes())))
        self.sweep = Sweep(config, directory, on_node, self.trial.use_gpu)
        self.waiting: str | None = None

    def execute(self) -> SweepResult:
        fresh = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.tracker = RunTracker(self.config, self.directory)
        try:
            with locked(self.directory):
                if fresh:
                    self._write_config()
                return self._execute()
        except TrackingError:  # only `tracker.start` raises this
            if fresh:
                shutil.rmtree(self.directory)
            raise

    def _write_config(self) -> None:
        """Write the configuration, and a copy of the fine-tuning recipe, so that later changes of it have no effect."""
        if self.config.tune.objective in FINETUNED:
            path = self.directory / "finetune.yaml"
            recipe = recipes.find(self.config.tune.finetune)
            write_whole(path, recipe.read_bytes())
            tuning = self.config.tune.model_copy(update={"finetune": str(path)})
            self.config = self.config.model_copy(update={"tune": tuning})
            self.sweep = dataclasses.replace(self.sweep, config=self.config)
        write_whole(self.directory / "config.yaml", to_yaml(self.config))

    def _execute(self) -> SweepResult:
        data = data_sets_of(self.trained[0].data, self.config.tune.objective)
        self.tracker.start(str(self.sweep.device), data_sets=data)
        recorder = TrialCallback(self.sweep, str(self.tracker.run_id), self.num_trials, self.on_event)
        try:
            recorder.sync()
            todo = [number for number in range(self.num_trials) if number not in recorder.ended_before]
            if self.config.tune.searcher == "tpe":  # TPE trials take any free numbers
                todo = todo[: self.num_trials - len(recorder.ended_before)]
            if todo:
                self.on_event(f"running {len(todo)} trial(s), {self.concurrent} at a time, in {self.directory}")
                self.on_event(f"logging to MLflow at {tracking.destination(self.config)}")
                with status.noting(self.directory, self.num_trials, lambda: self.waiting):
                    make_features(self.trained, self.directory, self.on_event)
                    await_resources(self.trial, self.config.train.max_wait_s, self._wait)
                    run_trials(self.sweep, self.settings, todo, recorder, self.concurrent, self.trial.worker_bundle)
        except (KeyboardInterrupt, InterruptedRunError):
            self._try_to_end("KILLED", recorder)
            raise InterruptedRunError(f"interrupted; resume with: advise-ray tune --resume {self.directory}") from None
        except BaseException:
            self._try_to_end("FAILED", recorder)
            raise
        recorder.leave()
        shutil.rmtree(self.directory / ".ray", ignore_errors=True)  # Tune's state is not used to resume
        result = self._end("FINISHED", recorder)
        if (left := self.num_trials - len(read_trials(self.directory))) > 0:
            command = f"advise-ray tune --resume {self.directory}"
            self.on_event(f"the time budget is used up; {left} trial(s) are left; resume with: {command}")
        elif result["best"] is None:
            raise SweepError(_why_none(result, self.config))
        return result

    def _try_to_end(self, ended: Literal["FAILED", "KILLED"], recorder: TrialCallback) -> None:
        """Like `_end`, but only log a failure to write: the error that ended the sweep (a full disk?) matters more."""
        session.disconnect()  # ends the trials on all nodes
        recorder.leave()
        try:
            self._end(ended, recorder)
        except OSError as error:
            log.warning("cannot write the result of the sweep: %s", error)

    def _wait(self, line: str | None) -> None:
        resource_wait.show(line)
        if line is not None or self.waiting is not None:
            self.tracker.tag("waiting", line or "no")
        self.waiting = line

    def _end(self, ended: Literal["FINISHED", "FAILED", "KILLED"], recorder: TrialCallback) -> SweepResult:
        result = patiently(
            lambda: write_result(self.sweep, self.tracker.run_id, ended, self.num_trials, self.started_s)
        )
        best = result["best"]
        summary, tags = {}, {}
        if best is not None:
            summary = {f"best/{name}": value for name, value in best["values"].items() if is_number(value)}
            tags = {f"best.{key}": json.dumps(value) for key, value in best["settings"].items()}
            tags["best.trial"] = f"{best['number']:04d}"
        artifacts = [Path(path) for path in (result["table"], *result["recipes"], *result["figures"])]
        complete = self.tracker.finish(ended, artifacts, summary, tags)
        if ended == "FINISHED" and best is not None:
            complete = recorder.keep_model(best["number"]) and complete
        result["tracking_complete"] = complete and recorder.complete
        return result


def _one_trial(config: Config, cluster: list[Node]) -> tuple[Shares, list[int]]:
    """The resources of one trial, and how many trials fit on each present or future node of the cluster.

    Raises:
        UsageError: no node has room for a trial.
    """
    with_gpu = [cpus / gpus for cpus, gpus in cluster if gpus >= 1]
    use_gpu = bool(with_gpu) if config.train.use_gpu is None else config.train.use_gpu
    beside_gpu = max(1.0, float(min(with_gpu, default=1.0) // 1))
    trial = Shares(1, config.train.cpus_per_worker or (beside_gpu if use_gpu else 1.0), 0, 0.0, use_gpu)
    rooms = [int(min(cpus // trial.cpus, gpus) if use_gpu else cpus // trial.cpus) for cpus, gpus in cluster]
    if not sum(rooms):
        most = max((cpus for cpus, _ in cluster), default=0.0), sum(gpus for _, gpus in cluster)
        raise UsageError(
            f"a trial needs {trial.cpus:g} CPU(s){' and 1 GPU' if use_gpu else ''}, but the largest node has "
            f"{most[0]:g} CPU(s) and the cluster has {most[1]:g} GPU(s); lower train.cpus_per_worker, or set "
            "train.use_gpu=false"
        )
    return trial, rooms


def _trained(config: Config, settings: list[Settings]) -> Iterator[Config]:
    """The configurations of all possible trainings, with the searched keys that affect features and processes."""
    for each in settings or possible(config.search, FEATURE_KEYS):
        yield pretraining(config, each)
        if config.tune.objective in FINETUNED:
            yield finetuning(config, each, "model.init_from=null")


def _why_none(result: SweepResult, config: Config) -> str:
    failed = [row for row in read_trials(Path(result["sweep_dir"])) if row["error"]]
    if failed:
        return f"no trial has finished; trial {failed[0]['number']} failed: {failed[0]['error']}"
    return (
        f"no trial has reported {config.tune.judged_by} (tune.metric); val/top1 needs validation videos that are long "
        "enough for the fastest rate; see trials.csv for the measured values"
    )
