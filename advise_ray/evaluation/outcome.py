"""What a protocol finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """Of one protocol on one split.

    Attributes:
        metrics: each in [0, 1].
        predictions: rows of `predictions.parquet`: `video_id`, `label`, `prediction` (None where the video could not be
            decoded, with its `failure`), and what else the protocol knows.
        names: of the classes, or of the rates.
        confusion: int64[C, C], target by prediction; None where the protocol has none.
        details: what else `result.json` says.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    names: list[str]
    confusion: NDArray[np.int64] | None = None
    details: dict[str, Any] = field(default_factory=dict)
