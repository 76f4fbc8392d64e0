"""The data sets of a sweep's trials, for MLflow."""

from __future__ import annotations

from advise_ray import tracking
from advise_ray.config import DataConfig
from advise_ray.video.manifest import held_out_split, split_videos, videos
from advise_ray.video.pool import hash_videos, read_videos


def data_sets_of(data: DataConfig, objective: str) -> list[tracking.DataSet]:
    """The videos that a trial trains and validates on, and those on which its objective (`tune.objective`) tests it.

    Raises:
        UsageError: see `read_videos`.
    """
    table = read_videos(data)
    splits = split_videos(table, data)
    rows: dict[tracking.Context, list[int]] = {"training": list(splits.train), "validation": list(splits.val)}
    if objective != "pretext":
        test = held_out_split(table, data, data.test_split)
        rows["test"] = [row for row, split in enumerate(table.column("split").to_pylist()) if split == test]
    return tracking.data_sets(data, hash_videos(table), videos(table), rows)
