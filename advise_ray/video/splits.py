"""Which videos of a manifest are for training and for validation, and which classes and groups they have."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError

CLIP_OF_RECORDING = r"_c\d+\.\w+$"
"""The part of the id by which clips of one recording differ: UCF101's `…_g01_c02.avi` is clip 2 of group 1."""

MOST_LABELS = 10_000
"""Higher labels are accepted only if the manifest has as many videos: each label takes memory and an output."""


@dataclass(frozen=True)
class Splits:
    """Row numbers of a manifest in ascending order, int32[n] each."""

    train: NDArray[np.int32]
    val: NDArray[np.int32]


def split_videos(manifest: pa.Table, data: DataConfig) -> Splits:
    """Return training and validation rows by the split column.

    If `val_split` selects no videos (see also `held_out_split`), a hash of each video's group selects
    `data.val_fraction` of the training videos. All videos of a manifest without splits (a plain folder) are training
    videos.

    Raises:
        UsageError: There are no training videos.
    """
    split = manifest.column("split")
    is_train = in_split(manifest, data.train_split)
    if split.null_count == len(split):
        is_train[:] = True
    is_val = in_split(manifest, held_out_split(manifest, data, data.val_split))
    if not is_val.any():
        is_val = _drawn(manifest, is_train, data.val_fraction)
    if not is_train.any():
        raise UsageError(
            f"data.train_split: no video has split {data.train_split!r}; the manifest has {known_splits(manifest)}"
        )
    is_train &= ~is_val
    if not is_train.any():
        raise UsageError(
            f"data.val_split: all training videos ({is_val.sum()}) are held out for validation; "
            "use another split, or set data.val_fraction=0"
        )
    return Splits(rows_of(is_train), rows_of(is_val))


def in_split(manifest: pa.Table, name: str | None) -> NDArray[np.bool_]:
    """Return whether each video has this split, bool[n]; False for all if `name` is None."""
    if name is None:
        return np.zeros(len(manifest), dtype=bool)
    return np.array(pc.fill_null(pc.equal(manifest.column("split"), name), False))


def rows_of(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the row numbers of the chosen videos. 32 bits are enough for two thousand million videos."""
    return np.flatnonzero(chosen).astype(np.int32)


def known_splits(manifest: pa.Table) -> str:
    """Return the names of all splits, for messages."""
    return ", ".join(sorted(pc.unique(manifest.column("split")).drop_null().to_pylist())) or "none"


def held_out_split(manifest: pa.Table, data: DataConfig, wanted: str | None) -> str | None:
    """Return the wanted split. If no video has it, return `val` or `validation`, unless it is for training."""
    there = set(pc.unique(manifest.column("split")).to_pylist())
    if wanted is None or wanted in there:
        return wanted
    return next((name for name in ("val", "validation") if name in there - {data.train_split}), wanted)


def named_classes(manifest: pa.Table) -> list[str]:
    """Return the names of the labels from 0 to the highest. The name of a label without a name is its number.

    Raises:
        UsageError: A label has several names, several labels have the same name, or a label is too high.
    """
    _refuse_ambiguous(manifest)
    highest, names = pc.max(manifest.column("label")).as_py(), manifest.column("class_name")
    if highest is not None and highest >= max(MOST_LABELS, len(manifest)):
        raise UsageError(f"data.manifest: label {highest} is too high; number the classes from 0 without gaps")
    last = np.full(max(-1 if highest is None else highest, -1) + 1, -1)  # a row with the label and a name
    start = 0
    for batch in manifest.select(["label", "class_name"]).to_batches():
        labels = np.asarray(batch.column("label").fill_null(-1))
        places = np.flatnonzero((labels >= 0) & np.asarray(batch.column("class_name").is_valid()))
        last[labels[places]] = start + places
        start += len(batch)
    return [names[row].as_py() if row >= 0 else str(label) for label, row in enumerate(last.tolist())]


def _refuse_ambiguous(manifest: pa.Table) -> None:
    pairs = manifest.select(["label", "class_name"]).group_by(["label", "class_name"]).aggregate([]).drop_null()
    for column, other, what in (("label", "class_name", "names"), ("class_name", "label", "labels")):
        counts = pairs.group_by(column).aggregate([(other, "count")])
        twice = counts.filter(pc.greater(counts.column(f"{other}_count"), 1)).column(column)
        if len(twice):
            name = pc.min(twice).as_py()
            theirs = sorted(pairs.filter(pc.equal(pairs.column(column), name)).column(other).to_pylist())
            raise UsageError(
                f"data.manifest: {column} {name!r} has several {what}, such as {theirs[0]!r} and {theirs[1]!r}; "
                "each class needs one label and one class_name"
            )


def groups(manifest: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """Return the group of each video, which is held out together: its `group`, or else its `recording`."""
    recordings = pc.replace_substring_regex(manifest.column("video_id"), CLIP_OF_RECORDING, "")
    return pc.coalesce(manifest.column("group"), recordings)


def recording(video_id: str) -> str:
    """Return the part of the id that clips of one recording share, see CLIP_OF_RECORDING."""
    return re.sub(CLIP_OF_RECORDING, "", video_id, flags=re.ASCII)


def _drawn(manifest: pa.Table, among: NDArray[np.bool_], fraction: float) -> NDArray[np.bool_]:
    """Return whether the hash of each video's group, a number from 0 to 1, is below the fraction, bool[n].

    Args:
        among: bool[n], the videos to draw from.
    """
    drawn, start = np.zeros(len(manifest), dtype=bool), 0
    for batch in manifest.select(["group", "video_id"]).to_batches() if fraction else []:
        chosen = among[start : start + len(batch)]
        names = groups(batch).filter(pa.array(chosen)).cast(pa.binary()).to_pylist()
        hashes = b"".join([hashlib.blake2b(name, digest_size=8).digest() for name in names])
        drawn[start : start + len(batch)][chosen] = np.frombuffer(hashes, "<u8") / 2.0**64 < fraction
        start += len(batch)
    return drawn
