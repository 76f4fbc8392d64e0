"""The data sets of a sweep's trials, for MLflow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advise_ray import tracking
from advise_ray.config import DataConfig
from advise_ray.video.manifest import Videos
from advise_ray.video.pool import hash_videos, read_videos
from advise_ray.video.splits import held_out_split, in_split, rows_of, split_videos


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
