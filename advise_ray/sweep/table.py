"""Results of a sweep's trials, read from their directories, which are the source of truth."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advise_ray.sweep.trial import ENDED

Row = dict[str, Any]
"""Result of a trial: `number`, `settings`, `status` (FINISHED, PRUNED, FAILED), `values`, `error`."""


def read_trials(sweep_dir: Path) -> list[Row]:
    """The trials that have ended, sorted by number."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sweep_dir.glob(f"trials/*/{ENDED}")]
    return sorted(rows, key=lambda row: row["number"])


def best_trial(rows: Sequence[Row], metric: str, mode: Literal["max", "min"]) -> Row | None:
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


def _group(row: Row) -> str:
    """All settings except the seed, as JSON."""
    return json.dumps({key: value for key, value in row["settings"].items() if key != "seed"}, sort_keys=True)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write one line for each trial: number, status, settings, and the union of all trials' values."""
    settings = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    values = list(dict.fromkeys(key for row in rows for key in row["values"]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "status", *settings, *values, "error"])
        for row in rows:
            cells = [json.dumps(row["settings"][key]) if key in row["settings"] else "" for key in settings]
            cells += [row["values"].get(key, "") for key in values]
            writer.writerow([row["number"], row["status"], *cells, row["error"] or ""])
