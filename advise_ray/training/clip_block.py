"""The clips of one worker in one step, and their conversion to and from a row of Ray Data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.training.batch_schedule import Batch

Row = dict[str, NDArray[Any]]
"""A batch of one row in Ray Data's format `batch_format="numpy"`: each array has a leading axis of 1."""


@dataclass(frozen=True)
class ClipBlock:
    """A worker's share of one batch: B clips of T frames.

    Attributes:
        targets: int64[B], the class of each clip: its playback rate, or its label.
        weights: float32[B], 1 for a normal clip; 0 if it only fills the batch or its video cannot be read.
        frames: uint8[B, T, H, W, 3], RGB frames; None with a feature cache.
        draws: float32[B, D], the augmentation of each clip (`video.augment_draws`); None with a feature cache.
        features: float16[B, T, h, w, C], from a feature cache; None if the clips are decoded.
        hidden: bool[B, T], the frames that the model must predict (`pretext.masked_frames`), or None.
        share: the plan of these clips; None outside a run.
        rate_indices: int64[B], index of each clip's rate in `data.clip.rates`.
        frame_indices: int64[B, T], positions of the frames in the video file.
        failures: video id → reason why the video cannot be read.
    """

    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    frames: NDArray[np.uint8] | None = None
    draws: NDArray[np.float32] | None = None
    features: NDArray[np.float16] | None = None
    hidden: NDArray[np.bool_] | None = None
    share: Batch | None = None
    rate_indices: NDArray[np.int64] | None = None
    frame_indices: NDArray[np.int64] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def planned(self) -> Batch:
        """`share`, which is never None in a run."""
        assert self.share is not None
        return self.share

    def to_row(self) -> Row:
        """Convert to one row of Ray Data."""
        row = {"failures": np.asarray([json.dumps(self.failures)])}
        row |= {f"planned_{name}": np.asarray(value)[None] for name, value in self.planned.to_row().items()}
        return row | {name: value[None] for name in ARRAYS if (value := getattr(self, name)) is not None}

    @staticmethod
    def from_row(row: Row) -> ClipBlock:
        """Convert from a row of Ray Data. The arrays are views of the row's arrays."""
        planned = {name.removeprefix("planned_"): value for name, value in row.items() if name.startswith("planned_")}
        arrays = {name: row[name][0] for name in ARRAYS if name in row}
        return ClipBlock(**arrays, share=Batch.from_row(planned), failures=json.loads(str(row["failures"][0])))


ARRAYS = tuple(each.name for each in fields(ClipBlock) if each.name not in ("share", "failures"))
