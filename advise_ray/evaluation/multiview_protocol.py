"""The multi-view protocol: fuses the predictions for several clips and crops of each video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from advise_ray.evaluation import metrics as measure
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.labels import LabelledSplit
from advise_ray.evaluation.outcome import Outcome
from advise_ray.evaluation.protocol import OnProgress, Settings, classified, decoded_rows, encode_splits, values_of


def multiview(
    encoder: Encoder, splits: Sequence[LabelledSplit], settings: Settings, on_progress: OnProgress
) -> Iterator[Outcome]:
    """Average the probabilities over clips × crops of each test video (the paper's Acc_ft)."""
    crops = settings.num_crops or 3
    encoded = encode_splits(
        encoder, splits, "logits", settings, crops, on_progress, fuse=_mean_probabilities, tests_only=True
    )
    for split in splits:
        seen = decoded_rows(split.test, encoded)
        yield classified(encoder, split, encoded, seen, values_of(encoded, seen))


def _mean_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """float32[K, crops, C] → float64[C]."""
    mean: NDArray[np.float64] = measure.softmax(logits).mean(axis=(0, 1))
    return mean
