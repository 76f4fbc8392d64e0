"""Writes and reads `predictions.parquet`, the predictions of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.storage.parquet import write_table


class Prediction(TypedDict):
    """A row of `predictions.parquet`: a test video, or with `pretext` a clip of one.

    Attributes:
        split: name of the split. Only in the file.
        video_id: see the manifest.
        label: number of the true class, or rate.
        prediction: number of the predicted class, or rate; None if the video could not be decoded.
        failure: why the video could not be decoded, or None.
        score: probability of the prediction, in [0, 1]. Not with `retrieval`.
        class_name, predicted_name: names of both classes. Only with `multiview`, `linear` and `knn`, as the next one.
        top5: numbers of the most probable classes, the best first.
        nearest: `retrieval`: the video_ids of the nearest training videos, the nearest first.
        clips: `pretext`: kind of clip: `honest`, a control, or a policy for short videos. Only there, as the next ones.
        frame_indices: T frame numbers that the clip shows.
        wraps: whether the clip starts over.
        repeats: whether the clip shows a frame twice in a row.
    """

    split: NotRequired[str]
    video_id: str
    label: int
    prediction: int | None
    failure: str | None
    score: NotRequired[float | None]
    class_name: NotRequired[str]
    predicted_name: NotRequired[str | None]
    top5: NotRequired[list[int]]
    nearest: NotRequired[list[str]]
    clips: NotRequired[str]
    frame_indices: NotRequired[list[int]]
    wraps: NotRequired[bool]
    repeats: NotRequired[bool]


def write_predictions(predictions: Mapping[str, Sequence[Prediction]], path: Path) -> None:
    """Write the predictions of each split."""
    rows = [{"split": split, **row} for split, of_split in predictions.items() for row in of_split]
    write_table(pa.Table.from_pylist(rows), path)


def read_predictions(path: Path | str) -> list[Prediction]:
    """Read the predictions of all splits."""
    rows: list[Prediction] = pq.read_table(path).to_pylist()
    return rows
