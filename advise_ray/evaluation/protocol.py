"""What the protocols for labelled videos share: settings, encoding the videos of the splits, and the outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.errors import UsageError
from advise_ray.evaluation import metrics as measure
from advise_ray.evaluation.encode_clips import Output, SpreadClips
from advise_ray.evaluation.encoded_videos import Encoded, Encoder
from advise_ray.evaluation.labels import LabelledSplit
from advise_ray.evaluation.outcome import Details, Outcome
from advise_ray.evaluation.predictions import Prediction

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """Settings of a protocol.

    Attributes:
        num_clips: number of clips, spread evenly over the video.
        num_crops: number of crops along the longer side of each clip. None: three for `multiview`, otherwise the
            centre crop only.
        k: number of neighbours that vote.
        temperature: temperature of their votes.
        attentive: use an attentive probe instead of a linear probe.
    """

    num_clips: int = 10
    num_crops: int | None = None
    k: int = 20
    temperature: float = 0.07
    attentive: bool = False


def encode_splits(
    encoder: Encoder,
    splits: Sequence[LabelledSplit],
    output: Output,
    settings: Settings,
    num_crops: int,
    on_progress: OnProgress,
    *,
    fuse: Callable[[NDArray[np.float32]], NDArray[Any]],
    tests_only: bool = False,
) -> dict[int, Encoded]:
    """Encode every video of the splits once, even if it is in several splits.

    Args:
        fuse: makes of a video's values float32[K, crops, …] those that are kept.
    """
    wanted = [split.test for split in splits] + ([] if tests_only else [split.train for split in splits])
    rows = np.unique(np.concatenate(wanted))
    if output == "tokens":
        _refuse_too_many(encoder, len(rows) * settings.num_clips * num_crops)
    clips_of = SpreadClips(encoder.config, settings.num_clips)
    return {
        each.row: each if each.values is None else replace(each, values=fuse(each.values))
        for each in encoder.encode(rows, clips_of, output, num_crops, on_progress)
    }


def _refuse_too_many(encoder: Encoder, num_clips: int) -> None:
    """Raise UsageError if the tokens of all clips do not fit in memory."""
    with torch.inference_mode():
        size_px, num_frames = encoder.config.augment.crop_size_px, encoder.config.data.clip.num_frames
        features = encoder.model.features(torch.zeros(1, num_frames, size_px, size_px, 3, dtype=torch.uint8))
        clip_bytes = 4 * encoder.model.temporal.eval().tokens(features).numel()
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 3 * num_clips * clip_bytes > memory_bytes:  # three copies: raw, normalised, and a batch
        raise UsageError(
            f"--attentive: the model's output for {num_clips} clips needs {3 * num_clips * clip_bytes / 2**30:.1f} "
            f"GiB of memory, but this machine has {memory_bytes / 2**30:.1f} GiB; use fewer --clips"
        )


def decoded_rows(rows: NDArray[np.int64], encoded: dict[int, Encoded]) -> NDArray[np.int64]:
    """The rows of the videos that could be decoded."""
    return np.asarray([row for row in rows if encoded[int(row)].values is not None], dtype=np.int64)


def values_of(encoded: dict[int, Encoded], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Stack the values of decoded videos."""
    return np.stack([values for row in rows if (values := encoded[int(row)].values) is not None])


def classified(
    encoder: Encoder,
    split: LabelledSplit,
    encoded: dict[int, Encoded],
    seen: NDArray[np.int64],
    scores: NDArray[np.float64],
    details: Details | None = None,
) -> Outcome:
    """Compute the metrics and a row for every test video. A video that cannot be decoded counts as wrong."""
    targets, num_classes = split.labels[seen], len(split.names)
    decoded_fraction = len(seen) / len(split.test)
    confusion = measure.confusion_matrix(targets, scores.argmax(axis=1), num_classes)
    of_class = np.bincount(split.labels[split.test], minlength=num_classes)
    metrics = {"top1": measure.top_k(scores, targets, 1) * decoded_fraction}
    if num_classes > 5:
        metrics["top5"] = measure.top_k(scores, targets, 5) * decoded_fraction
    metrics["chance"] = 1 / num_classes
    metrics["mean_class_accuracy"] = measure.mean_class_accuracy(confusion, of_class)
    best = dict(zip(seen.tolist(), measure.best_k(scores, 5), strict=True))
    places = {row: index for index, row in enumerate(seen.tolist())}
    predictions: list[Prediction] = []
    for row in split.test.tolist():
        top = best[row].tolist() if row in best else []
        predictions.append(
            {
                "video_id": encoder.videos[row].video_id,
                "label": int(split.labels[row]),
                "class_name": split.names[split.labels[row]],
                "prediction": top[0] if top else None,
                "predicted_name": split.names[top[0]] if top else None,
                "score": float(scores[places[row], top[0]]) if top else None,
                "top5": top,
                "failure": encoded[row].failure,
            }
        )
    return Outcome(metrics, predictions, split.names, confusion, details or {})
