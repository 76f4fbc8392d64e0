"""The linear protocol: trains a linear or an attentive probe on the frozen model's output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.evaluation.encode_clips import Output
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.labels import LabelledSplit
from advise_ray.evaluation.outcome import Details, Outcome
from advise_ray.evaluation.probes import probe
from advise_ray.evaluation.protocol import OnProgress, Settings, classified, decoded_rows, encode_splits, values_of


def linear(
    encoder: Encoder, splits: Sequence[LabelledSplit], settings: Settings, on_progress: OnProgress
) -> Iterator[Outcome]:
    """Train a linear (or attentive) classifier on the frozen model's output and use the best of many settings."""
    output: Output = "tokens" if settings.attentive else "embedding"
    encoded = encode_splits(encoder, splits, output, settings, settings.num_crops or 1, on_progress, fuse=_in_a_row)
    for split in splits:
        train, test = decoded_rows(split.train, encoded), decoded_rows(split.test, encoded)
        probed = probe(
            values_of(encoded, train),
            split.labels[train],
            split.groups[train],
            values_of(encoded, test),
            len(split.names),
            attentive=settings.attentive,
            seed=encoder.config.seed,
            device=torch.device("cuda" if encoder.use_gpu else "cpu"),
        )
        validation_top1 = probed.validation_top1[probed.setting]
        details: Details = {
            "lr": probed.setting.lr,
            "weight_decay": probed.setting.weight_decay,
            "validation_top1": None if np.isnan(validation_top1) else validation_top1,
            "settings_tried": len(probed.validation_top1),
        }
        yield classified(encoder, split, encoded, test, probed.scores, details)


def _in_a_row(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[K, crops, …] → float32[K × crops, …]."""
    return values.reshape(-1, *values.shape[2:])
