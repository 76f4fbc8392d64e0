"""The tables of runs that links open: which runs, in which order, with which columns.

MLflow calls such a table a saved view. It keeps it as a tag of the experiment, and offers it to everybody in the menu
of saved views. Here it is written as MLflow's own "Save view" writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from advise_ray.config import Config

TAG = "mlflow.sharedViewState."
SPEED = "rate/clips_per_s"
OBJECTIVES = ("val/top1", "acc_ft", "acc_scratch", "delta_acc", "linear/top1", "knn/top1")
EVALUATED = ("multiview/top1", "pretext/top1", "linear/top1", "knn/top1", "retrieval/recall_at_1")
COMPARED = ("task", "model.ifm.name", "model.tmm.arch", "model.init_from", "seed")

FIRST_COLUMNS = ("attributes.`Run Name`", "runDateAndNestInfo")
DATASET = "attributes.`Dataset`"
COLUMN_WIDTHS_PX = {"attributes.`Run Name`": 270, "runDateAndNestInfo": 140, DATASET: 330}


class View(NamedTuple):
    """A table of runs.

    Attributes:
        key: the end of the tag's name, and `viewStateShareKey` of a link. It depends on name and state, so a view that
            somebody has changed in MLflow is never written again.
        name: name in the menu of saved views.
        state: filter, order and columns, as JSON.
    """

    key: str
    name: str
    state: str

    @property
    def tag(self) -> tuple[str, str]:
        """Name and value of the experiment's tag."""
        now_ms = int(time.time() * 1000)
        value = {"name": self.name, "createdAt": now_ms, "updatedAt": now_ms, "state": self.state}
        return TAG + self.key, json.dumps(value)


def view_of(config: Config, run_name: str, run_id: str) -> View:
    """The trials of a sweep, best first; of a run without a search all runs of its experiment, best first."""
    if not config.search:
        metrics = ["val/top1", "best/val/top1", "train/epoch_loss", SPEED, *(f"eval/{name}" for name in EVALUATED)]
        return _view("runs, best first", "tags.`mlflow.parentRunId` IS NULL", metrics, COMPARED, ascending=False)
    tuning = config.tune
    return _view(
        f"trials of {run_name}, best first",
        f"tags.`mlflow.parentRunId` = '{run_id}'",
        [_logged(tuning.judged_by), *OBJECTIVES, SPEED],
        config.search,
        ["trial.state"],
        ascending=tuning.mode == "min",
    )


def _logged(metric: str) -> str:
    """The name in MLflow of a metric of a trial. `train/loss` of a trial is the mean of its last epoch."""
    return re.sub(r"(?<![^/])train/(?=(loss|top1)$)", "train/epoch_", metric)


def _view(
    name: str,
    runs: str,
    metrics: Iterable[str],
    params: Iterable[str],
    tags: Iterable[str] = (),
    *,
    ascending: bool,
) -> View:
    """Make a view. Runs are sorted by the first metric. MLflow leaves out columns that no run has."""
    first, *others = [f"metrics.`{named(each)}`" for each in dict.fromkeys(metrics)]
    columns = [first, *(f"params.`{each}`" for each in params), *others, *(f"tags.`{each}`" for each in tags)]
    state = {
        "searchFilter": runs,
        "orderByKey": columns[0],
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*columns, DATASET],
        "columnOrder": [*FIRST_COLUMNS, *columns, DATASET],
        "columnWidths": COLUMN_WIDTHS_PX,
    }
    text = json.dumps(state)
    return View("advise-ray-" + hashlib.sha256((name + text).encode()).hexdigest()[:12], name, text)


def named(metric: str) -> str:
    """Replace characters that MLflow does not allow in a metric's name."""
    return re.sub(r"[^\w/.: -]", "_", metric)
