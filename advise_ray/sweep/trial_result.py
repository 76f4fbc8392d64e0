"""Writes and reads the results of a sweep's trials (`trial.json`), finds the best of them, and writes their table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from advise_ray.storage.atomic import exists, write_whole
from advise_ray.storage.retry import patiently
from advise_ray.sweep.space import Settings


class TrialResult(TypedDict):
    """The content of a trial's `trial.json`, which is written when the trial ends.

    Attributes:
        number: number of the trial, from 0.
        settings: searched key → value.
        status: PRUNED means that the search has stopped the trial early.
        values: name → last value: metrics of the trainings, results of the evaluations (`acc_ft`, `linear/top1`, …),
            `train_s` (time of all trainings), `peak_bytes` (peak memory of the last one).
        error: why the trial failed, in one line, or None.
    """

    number: int
    settings: Settings
    status: Literal["FINISHED", "PRUNED", "FAILED"]
    values: dict[str, float]
    error: str | None


def has_ended(trial_dir: Path) -> bool:
    return patiently(lambda: exists(trial_dir / "trial.json"))


def write_trial(result: TrialResult, trial_dir: Path) -> None:
    write_whole(trial_dir / "trial.json", json.dumps(result))


def read_trials(sweep_dir: Path) -> list[TrialResult]:
    """The trials that have ended, sorted by number."""
    folders = list((sweep_dir / "trials").iterdir()) if exists(sweep_dir / "trials") else []
    files = [folder / "trial.json" for folder in folders if folder.name.isdigit() and exists(folder / "trial.json")]
    rows: list[TrialResult] = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return sorted(rows, key=lambda row: row["number"])


def best_trial(rows: Sequence[TrialResult], metric: str, mode: Literal["max", "min"]) -> TrialResult | None:
    """The finished trial with the best value of a metric. The first trial wins a tie. None if no trial has the metric.

    Trials that differ only in the seed are compared by their mean, and the best of them represents the group.
    """
    finished = [row for row in rows if row["status"] == "FINISHED" and is_number(row["values"].get(metric))]
    if not finished:
        return None
    sign = 1 if mode == "max" else -1
    groups: dict[str, list[float]] = {}
    for row in finished:
        groups.setdefault(_group(row), []).append(sign * row["values"][metric])
    return max(
        finished,
        key=lambda row: (np.mean(groups[_group(row)]), sign * row["values"][metric], -row["number"]),
    )


def _group(row: TrialResult) -> str:
    """All settings except the seed, as JSON."""
    return json.dumps({key: value for key, value in row["settings"].items() if key != "seed"}, sort_keys=True)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def write_csv(rows: Sequence[TrialResult], path: Path) -> None:
    """Write one line for each trial: number, status, settings, and the union of all trials' values."""
    settings = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    values = list(dict.fromkeys(key for row in rows for key in row["values"]))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["number", "status", *settings, *values, "error"])
    for row in rows:
        cells: list[Any] = [json.dumps(row["settings"][key]) if key in row["settings"] else "" for key in settings]
        cells += [row["values"].get(key, "") for key in values]
        writer.writerow([row["number"], row["status"], *cells, row["error"] or ""])
    write_whole(path, table.getvalue())
