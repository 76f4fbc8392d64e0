"""The clips that one worker trains on in one step, and their form as a row of Ray Data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.training.schedule import Batch

Row = dict[str, NDArray[Any]]
"""A batch of one row, as Ray Data gives it with `batch_format="numpy"`: each array has a leading axis of 1."""


@dataclass(frozen=True)
class ClipBlock:
    """A worker's share of one batch: B clips of T frames.

    Attributes:
        targets: int64[B], the class of each clip: its playback rate, or its label.
        weights: float32[B], 0 for a clip that only fills the batch or whose video cannot be read.
        frames: uint8[B, T, H, W, 3], RGB; None with a feature cache.
        draws: float32[B, D], the augmentation of each clip (`video.augment_draws`); None with a feature cache.
        features: float16[B, T, h, w, C] of a feature cache; None where clips are decoded.
        hidden: bool[B, T], the frames to be predicted (`pretext.masked_frames`), or None.
        share: what was planned; None outside a run.
        rate_indices: int64[B], index of each clip's rate in `data.clip.rates`.
        frame_indices: int64[B, T], in the video file.
        failures: video id → why the video cannot be read.
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
        """`share`, in a run."""
        assert self.share is not None
        return self.share

    def to_row(self) -> Row:
        """One row for Ray Data."""
        row = {"failures": np.asarray([json.dumps(self.failures)])}
        row |= {f"planned_{name}": np.asarray(value)[None] for name, value in self.planned.to_row().items()}
        return row | {name: value[None] for name in ARRAYS if (value := getattr(self, name)) is not None}

    @staticmethod
    def from_row(row: Row) -> ClipBlock:
        """The block of a row; its arrays are views."""
        planned = {name.removeprefix("planned_"): value for name, value in row.items() if name.startswith("planned_")}
        arrays = {name: row[name][0] for name in ARRAYS if name in row}
        return ClipBlock(**arrays, share=Batch.from_row(planned), failures=json.loads(str(row["failures"][0])))


ARRAYS = tuple(each.name for each in fields(ClipBlock) if each.name not in ("share", "failures"))
