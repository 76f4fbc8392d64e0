"""Records the trials in the driver: writes each trial's result to its directory, and logs it as an MLflow child run."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ray import tune

from advise_ray.config import Config, DataConfig, load, to_yaml
from advise_ray.errors import ConfigError, TrackingError, UsageError
from advise_ray.storage.atomic import exists, write_whole
from advise_ray.storage.jsonl import read_lines
from advise_ray.storage.retry import patiently
from advise_ray.sweep.settings import FINETUNE, FINETUNED, as_text
from advise_ray.sweep.space import Settings
from advise_ray.sweep.trial import Sweep, make_trial_dir
from advise_ray.sweep.trial_data import data_sets_of
from advise_ray.sweep.trial_result import TrialResult, has_ended, is_number, read_trials, write_trial
from advise_ray.tracking import DataSet, RunTracker
from advise_ray.training import checkpoint, metrics_lines

log = logging.getLogger("advise_ray")

HIDDEN = ("done", "epochs")
"""Keys of a report that are not metrics."""


class TrialCallback(tune.Callback):
    """Tune calls this in the driver, so that a single process writes to MLflow for all trials."""

    def __init__(self, sweep: Sweep, parent_id: str, num_trials: int, on_event: Callable[[str], None]) -> None:
        self.sweep, self.parent_id, self.num_trials, self.on_event = sweep, parent_id, num_trials, on_event
        self.trackers: dict[str, RunTracker] = {}
        self.running: set[str] = set()
        self.data_sets: dict[DataConfig, list[DataSet]] = {}
        self.left = False
        self.ended_before = {row["number"] for row in read_trials(sweep.directory)}
        self.ended = len(self.ended_before)

    @cached_property
    def sending(self) -> ThreadPoolExecutor:
        """Sends to MLflow in order, so that Tune never waits. Created at first use, because Tune pickles callbacks."""
        return ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def sync(self) -> None:
        """Send what MLflow lacks of trials that ended before the sweep was interrupted."""
        for row in read_trials(self.sweep.directory):
            trial_dir = self.sweep.trial_dir(row["number"])
            tracker = self._tracker(trial_dir)
            if not tracker.complete:
                self._start(tracker, row["settings"])
                _finish(tracker, row)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:
        trial_dir, settings = self._of(trial)
        make_trial_dir(trial_dir)
        if self.left or has_ended(trial_dir) or trial.trial_id in self.trackers:
            return  # the trial repeats its reports, or is a retry
        self.running.add(trial.trial_id)
        config = self._begin(trial_dir, settings)
        self.trackers[trial.trial_id] = patiently(lambda: RunTracker(config, trial_dir))
        self.sending.submit(self._start, self.trackers[trial.trial_id], settings)

    def _begin(self, trial_dir: Path, settings: Settings) -> Config:
        """Write a trial's configuration and settings into its directory."""
        try:
            config = self.sweep.stages(settings, trial_dir)["pretrain"]
        except ConfigError:  # the trial fails with this error as soon as it starts
            config = self.sweep.config
        unnamed = config.tracking.model_copy(update={"run_name": None})
        config = config.model_copy(update={"storage": self.sweep.config.storage, "tracking": unnamed})
        write_whole(trial_dir / "config.yaml", to_yaml(config))
        write_whole(trial_dir / "settings.json", json.dumps(settings))
        return config

    def _start(self, tracker: RunTracker, settings: Settings) -> None:
        own = {key: value for key, value in settings.items() if key.startswith(FINETUNE)}
        name = f"{tracker.run_dir.name} {as_text(settings)}"
        try:
            data = tracker.config.data
            if data not in self.data_sets:  # most trials share it
                self.data_sets[data] = data_sets_of(data, self.sweep.config.tune.objective)
            tracker.start(
                str(self.sweep.device), name=name, parent_id=self.parent_id, params=own, data_sets=self.data_sets[data]
            )
        except (TrackingError, UsageError) as error:
            log.warning("%s; trial %s continues and is logged by --resume", error, tracker.run_dir.name)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:
        self.running.discard(trial.trial_id)
        trial_dir, _ = self._of(trial)
        make_trial_dir(trial_dir)
        path = trial_dir / "reports.jsonl"
        reports = patiently(lambda: read_lines(path))
        self._end(trial, "FINISHED" if reports and reports[-1]["done"] else "PRUNED", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:
        self.running.discard(trial.trial_id)
        self._end(trial, "FAILED", _cause(trial))

    def keep_model(self, number: int) -> bool:
        """Upload and register the model of the winner, in its trial's MLflow run. Returns whether MLflow has it."""
        trial_dir = self.sweep.trial_dir(number)
        stage = "finetune" if self.sweep.config.tune.objective in FINETUNED else "pretrain"
        model = checkpoint.best(trial_dir / stage) if (trial_dir / stage).is_dir() else None
        return model is not None and self._tracker(trial_dir).keep_model(model)

    def _tracker(self, trial_dir: Path) -> RunTracker:
        """The tracker of a trial that has ended in this or an earlier start of the sweep."""
        config, sweep = load(trial_dir / "config.yaml"), self.sweep.config
        tracking = config.tracking.model_copy(update={"uri": sweep.tracking.uri})
        return RunTracker(config.model_copy(update={"storage": sweep.storage, "tracking": tracking}), trial_dir)

    def leave(self) -> None:
        """Stop recording the running trials. Their progress is kept, and a resumed sweep continues them."""
        self.left = True
        for tracker in list(self.trackers.values()):
            if not has_ended(tracker.run_dir):
                self.sending.submit(_finish, tracker)
        self.sending.shutdown()

    @property
    def complete(self) -> bool:
        """Whether MLflow has all data of the ended trials."""
        return all(tracker.complete for tracker in self.trackers.values())

    def _end(self, trial: Any, status: Literal["FINISHED", "PRUNED", "FAILED"], error: str | None) -> None:
        trial_dir, settings = self._of(trial)
        make_trial_dir(trial_dir)  # the process may have died before the trial started
        if self.left or has_ended(trial_dir):
            return
        if not patiently(lambda: exists(trial_dir / "config.yaml")):  # the process died before the trial started
            self._begin(trial_dir, settings)
        reports = patiently(lambda: read_lines(trial_dir / "reports.jsonl"))
        values = {name: value for name, value in (reports[-1] if reports else {}).items() if name not in HIDDEN}
        row = TrialResult(number=int(trial_dir.name), settings=settings, status=status, values=values, error=error)
        write_trial(row, trial_dir)
        if trial.trial_id in self.trackers:
            self.sending.submit(_finish, self.trackers[trial.trial_id], row)
        self.ended += 1
        metric = self.sweep.config.tune.judged_by
        outcome = f"{metric} {values[metric]:.4g}" if is_number(values.get(metric)) else (error or f"no {metric}")
        how = "" if status == "FINISHED" else f", {status.lower()}"
        ended = f"{self.ended:>3} of {self.num_trials} trials ended"
        self.on_event(f"{ended}: trial {trial_dir.name} {as_text(settings)}: {outcome}{how}")

    def _of(self, trial: Any) -> tuple[Path, Settings]:
        given = trial.config["trial"]
        return self.sweep.trial_dir(given["number"]), given["settings"]


def _finish(tracker: RunTracker, row: TrialResult | None = None) -> None:
    """End a trial's MLflow run with its result `row`. None: the trial was interrupted."""
    if tracker.run_id is None:  # the MLflow run could not be started
        return
    if row is None:
        tracker.finish("KILLED")
        return
    logged = _metric_names(tracker)
    summary = {name: value for name, value in row["values"].items() if is_number(value) and name not in logged}
    tags = {"trial.state": row["status"].lower()} | ({"trial.error": row["error"]} if row["error"] else {})
    status = "FAILED" if row["status"] == "FAILED" else "FINISHED"
    tracker.finish(status, [tracker.run_dir / "settings.json"], summary, tags)


def _metric_names(tracker: RunTracker) -> set[str]:
    """Names of the metrics in metrics.jsonl."""
    lines = patiently(lambda: metrics_lines.read(tracker.run_dir / "metrics.jsonl"))
    return {name for line in lines for name in line["values"]}


def _cause(trial: Any) -> str:
    """The innermost error in one line, from the error file that Tune writes immediately."""
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, TypeError):
        return "the trial's process died"
    named = [line for line in lines if re.match(r"([a-z_]\w*\.)*[A-Z]\w*(Error|Exception|Interrupt)\b", line)]
    return (named or lines)[-1].removeprefix("advise_ray.errors.")[:500]
