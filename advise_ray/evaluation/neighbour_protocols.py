"""The protocols that compare embeddings, without training: k nearest neighbours (kNN) and retrieval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import UsageError
from advise_ray.evaluation import metrics as measure
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.labels import LabelledSplit
from advise_ray.evaluation.outcome import Details, Outcome
from advise_ray.evaluation.predictions import Prediction
from advise_ray.evaluation.protocol import OnProgress, Settings, classified, decoded_rows, encode_splits, values_of

RETRIEVED = (1, 5, 10, 20, 50)


def knn(
    encoder: Encoder, splits: Sequence[LabelledSplit], settings: Settings, on_progress: OnProgress
) -> Iterator[Outcome]:
    """Classify each test video by weighted votes of the k training videos with the nearest embeddings."""
    for split in splits:
        _refuse_too_few(settings.k, len(split.train), "--k")
    encoded = encode_splits(encoder, splits, "embedding", settings, settings.num_crops or 1, on_progress, fuse=_mean)
    for split in splits:
        train, test = decoded_rows(split.train, encoded), decoded_rows(split.test, encoded)
        scores = measure.knn_scores(
            values_of(encoded, train),
            split.labels[train],
            values_of(encoded, test),
            len(split.names),
            settings.k,
            settings.temperature,
        )
        details: Details = {"k": settings.k, "temperature": settings.temperature}
        yield classified(encoder, split, encoded, test, scores, details)


def retrieval(
    encoder: Encoder, splits: Sequence[LabelledSplit], settings: Settings, on_progress: OnProgress
) -> Iterator[Outcome]:
    """Measure whether the k nearest training videos of each test video include one of the same class."""
    encoded = encode_splits(encoder, splits, "embedding", settings, settings.num_crops or 1, on_progress, fuse=_mean)
    for split in splits:
        train, test = decoded_rows(split.train, encoded), decoded_rows(split.test, encoded)
        ks = [k for k in RETRIEVED if k <= len(train)]
        nearest, _ = measure.neighbours(values_of(encoded, train), values_of(encoded, test), max(ks, default=1))
        decoded = len(test) / len(split.test)  # a query that cannot be decoded counts as a miss
        found = measure.retrieval(nearest, split.labels[train], split.labels[test], ks)
        rows: list[Prediction] = []
        places = {int(row): index for index, row in enumerate(test)}
        for row in split.test:
            video = encoder.videos[row]
            best = train[nearest[places[int(row)]]] if int(row) in places else []
            rows.append(
                {
                    "video_id": video.video_id,
                    "label": int(split.labels[row]),
                    "prediction": int(split.labels[best[0]]) if len(best) else None,
                    "nearest": [encoder.videos[each].video_id for each in best],
                    "failure": encoded[int(row)].failure,
                }
            )
        left_out = [k for k in RETRIEVED if k > len(train)]
        details: Details = {"left_out": [f"R@{k}: there are only {len(train)} training video(s)" for k in left_out]}
        yield Outcome(
            {f"recall_at_{k}": value * decoded for k, value in found.items()}, rows, split.names, None, details
        )


def _refuse_too_few(k: int, num_videos: int, option: str) -> None:
    if k > num_videos:
        raise UsageError(
            f"{option}: got {k}, but there are only {num_videos} training videos; use at most {num_videos}"
        )


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean embedding over a video's clips: float32[K, crops, E] → float32[E]."""
    mean: NDArray[np.float32] = values.mean(axis=(0, 1))
    return mean
