"""The result of an evaluation protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """The result of one protocol on one split.

    Attributes:
        metrics: name → value in [0, 1].
        predictions: rows of `predictions.parquet`: `video_id`, `label`, `prediction` (None if the video could not be
            decoded; `failure` says why), and further columns of the protocol.
        names: names of the classes or of the rates.
        confusion: int64[C, C], target by prediction; None if the protocol has no confusion matrix.
        details: further entries of `result.json`.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    names: list[str]
    confusion: NDArray[np.int64] | None = None
    details: dict[str, Any] = field(default_factory=dict)
