"""The videos of a sweep's trials: what its objective needs, and the data sets for MLflow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from advise_ray import tracking
from advise_ray.config import Config, DataConfig
from advise_ray.errors import UsageError
from advise_ray.evaluation.labels import labelled_split
from advise_ray.video.manifest import Videos
from advise_ray.video.pool import hash_videos, read_videos
from advise_ray.video.splits import held_out_split, in_split, rows_of, split_videos


def refuse_untestable(judged: Iterable[Config], objective: str, metric: str) -> None:
    """Refuse videos that cannot give the objective.

    Args:
        judged: the configurations whose runs the objective (`tune.objective`) evaluates.
        metric: name of the objective's metric.

    Raises:
        UsageError: there are no labelled training and test videos, or no validation videos.
    """
    for data in {config.data.model_dump_json(): config.data for config in judged}.values():
        table = read_videos(data)
        if objective != "pretext":
            labelled_split(table, data, None, known=[])
        elif metric.startswith("val/") and not len(split_videos(table, data).val):
            raise UsageError(f"tune.metric: {metric} needs validation videos; set data.val_fraction=0.2")


def data_sets_of(data: DataConfig, objective: str) -> list[tracking.DataSet]:
    """The videos that a trial trains and validates on, and those on which its objective (`tune.objective`) tests it.

    Raises:
        UsageError: see `read_videos`.
    """
    table = read_videos(data)
    splits = split_videos(table, data)
    rows: dict[tracking.Context, NDArray[np.integer]] = {"training": splits.train, "validation": splits.val}
    if objective != "pretext":
        rows["test"] = rows_of(in_split(table, held_out_split(table, data, data.test_split)))
    return tracking.data_sets(data, hash_videos(table), Videos(table), rows)
