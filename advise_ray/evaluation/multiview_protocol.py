"""The multi-view protocol: fuses the predictions for several clips and crops of each video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from advise_ray.evaluation import metrics as measure
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.labels import LabelledSplit
from advise_ray.evaluation.outcome import Outcome
from advise_ray.evaluation.protocol import OnProgress, Settings, classified, clips_of, decoded_rows, encode_splits


def multiview(
    encoder: Encoder, splits: Sequence[LabelledSplit], settings: Settings, on_progress: OnProgress
) -> Iterator[Outcome]:
    """Average the probabilities over clips × crops of each test video (the paper's Acc_ft)."""
    encoded = encode_splits(encoder, splits, "logits", settings, settings.num_crops or 3, on_progress, tests_only=True)
    for split in splits:
        seen = decoded_rows(split.test, encoded)
        scores = measure.softmax(clips_of(encoded, seen)).mean(axis=1)
        yield classified(encoder, split, encoded, seen, scores)
