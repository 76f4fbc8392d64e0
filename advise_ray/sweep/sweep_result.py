"""Writes the files with the result of a sweep: the table, the figures, the best trial's recipes, and `result.json`."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Literal, NotRequired, TypedDict

from advise_ray.config import to_yaml
from advise_ray.storage.atomic import write_whole
from advise_ray.sweep import plots
from advise_ray.sweep.trial import Sweep, winner
from advise_ray.sweep.trial_result import TrialResult, best_trial, read_trials, write_csv
from advise_ray.tracking import link, ui_command


class SweepResult(TypedDict):
    """The content of `result.json`, and the output of `tune --json`.

    Attributes:
        run_name: name of the sweep and of its directory.
        sweep_dir: path of the directory.
        mlflow_run_id: None if the tracking server was never reached.
        status: KILLED means that the sweep was interrupted.
        trials: number of trials that the sweep has in all.
        finished, pruned, failed: numbers of trials that have ended so.
        metric: name of the objective, a key of the trials' `values`.
        best: the best trial, see `best_trial`; None if no trial has finished with the metric.
        recipes: paths of the best trial's recipes, for `train`.
        table: path of `trials.csv`.
        figures: paths of the PNG files.
        mlflow_ui: address of the MLflow UI, or command that serves it.
        mlflow_link: page of the MLflow UI with the trials, best first, see `tracking.link`.
        wall_s: seconds since this start of the sweep.
        ended_s: end of the sweep, Unix time.
        tracking_complete: whether MLflow has the complete sweep. Only in the output of `--json`.
    """

    run_name: str
    sweep_dir: str
    mlflow_run_id: str | None
    status: Literal["FINISHED", "FAILED", "KILLED"]
    trials: int
    finished: int
    pruned: int
    failed: int
    metric: str
    best: TrialResult | None
    recipes: list[str]
    table: str
    figures: list[str]
    mlflow_ui: str
    mlflow_link: str | None
    wall_s: float
    ended_s: float
    tracking_complete: NotRequired[bool]


def write_result(
    sweep: Sweep,
    mlflow_run_id: str | None,
    ended: Literal["FINISHED", "FAILED", "KILLED"],
    num_trials: int,
    started_s: float,
) -> SweepResult:
    """Write the result from the files of the trials that have ended.

    Args:
        started_s: start of the sweep, by `time.monotonic`.
    """
    config, directory = sweep.config, sweep.directory
    trials = read_trials(directory)
    counts = Counter(trial["status"] for trial in trials)
    write_csv(trials, directory / "trials.csv")
    best = best_trial(trials, config.tune.judged_by, config.tune.mode)
    recipes = []
    for name, recipe in (winner(sweep, best["number"]) if best is not None else {}).items():
        recipes.append(directory / f"best_{name}.yaml")
        write_whole(recipes[-1], to_yaml(recipe))
    figures = plots.draw(config, trials, directory / "figures") if trials else []
    result = SweepResult(
        run_name=directory.name,
        sweep_dir=str(directory),
        mlflow_run_id=mlflow_run_id,
        status=ended,
        trials=num_trials,
        finished=counts["FINISHED"],
        pruned=counts["PRUNED"],
        failed=counts["FAILED"],
        metric=config.tune.judged_by,
        best=best,
        recipes=[str(path) for path in recipes],
        table=str(directory / "trials.csv"),
        figures=[str(path) for path in figures],
        mlflow_ui=ui_command(config),
        mlflow_link=link(config, directory),
        wall_s=round(time.monotonic() - started_s, 1),
        ended_s=time.time(),
    )
    write_whole(directory / "result.json", json.dumps(result, indent=2) + "\n")
    return result
