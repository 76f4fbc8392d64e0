"""The result of an evaluation protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from advise_ray.evaluation.predictions import Prediction


class Control(TypedDict):
    """Top-1 on the clips of a control, and on honest clips at the same rates, both in [0, 1]."""

    top1: float
    honest_top1: float


class Details(TypedDict, total=False):
    """What a protocol adds to `result.json` for each split.

    Attributes:
        lr, weight_decay: `linear`: the setting that was best in validation.
        validation_top1: `linear`: its top-1 on training videos that were held out; None if none could be held out.
        settings_tried: `linear`: number of settings.
        k, temperature: `knn`: number of neighbours that vote, and the temperature of their votes.
        left_out: `retrieval`: metrics for which there are too few training videos, and why.
        controls: `pretext`: name → result of the control.
        clips: `pretext`: kind of clip → number of clips.
        findings: `pretext`: sentences about shortcuts and missing cues.
    """

    lr: float
    weight_decay: float
    validation_top1: float | None
    settings_tried: int
    k: int
    temperature: float
    left_out: list[str]
    controls: dict[str, Control]
    clips: dict[str, int]
    findings: list[str]


@dataclass(frozen=True)
class Outcome:
    """The result of one protocol on one split.

    Attributes:
        metrics: name → value in [0, 1].
        predictions: rows of `predictions.parquet`, without `split`.
        names: names of the classes or of the rates.
        confusion: int64[C, C], target by prediction; None if the protocol has no confusion matrix.
        details: further entries of `result.json`.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    names: list[str]
    confusion: NDArray[np.int64] | None
    details: Details
