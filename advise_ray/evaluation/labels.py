"""Selects the labelled videos that a protocol trains on and the videos that it is tested on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError
from advise_ray.video.manifest import groups, held_out_split, named_classes, read_manifest
from advise_ray.video.pool import real_path

log = logging.getLogger("advise_ray")


@dataclass(frozen=True)
class LabelledSplit:
    """Training and test rows of a manifest, with their labels and class names.

    Attributes:
        train, test: int64[n], int64[m], rows of the manifest.
        labels: int64[rows of the manifest], -1 for a video without a label.
        groups: int64[rows of the manifest]. Clips of one recording have the same group.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: list[str]


def num_official_splits(manifest: pa.Table) -> int:
    """The number of official splits in the manifest."""
    return max((len(splits) for splits in manifest.column("official_splits").to_pylist() if splits), default=0)


def labelled_split(manifest: pa.Table, data: DataConfig, number: int | None, known: Sequence[str]) -> LabelledSplit:
    """Select the labelled training and test videos.

    Args:
        number: number of an official split, from 1; None for the manifest's `split` column.
        known: class names of the model's head; empty if the protocol does not use the head.

    Raises:
        UsageError: there are no labels or no test videos, or a test class has no training videos or is unknown to
            the model.
    """
    splits = _splits(manifest, number)
    test_split = tested_split(manifest, data) if number is None else data.test_split
    labelled = np.asarray(manifest.column("label").is_valid())
    if not labelled.any():
        raise UsageError(
            "data.manifest: this protocol needs labels, but no video has a label; index the videos with the data set's "
            "lists, or from folders that are named after the classes"
        )
    names, labels = named_classes(manifest), np.asarray(manifest.column("label").fill_null(-1))
    test = np.flatnonzero(labelled & (splits == test_split))
    train = np.flatnonzero(labelled & (splits == data.train_split))
    there = ", ".join(sorted({str(value) for value in splits if value is not None})) or "none"
    if not len(test):
        raise UsageError(
            f"data.test_split: no labelled video has split {data.test_split!r}; the manifest has {there}; use one of "
            "these, or index the videos again with --test-fraction 0.2"
        )
    if known:
        names, labels = list(known), _relabelled(names, labels, test, known)
    elif not len(train):
        raise UsageError(
            f"data.train_split: no labelled video has split {data.train_split!r}; the manifest has {there}"
        )
    else:
        absent = sorted({names[label] for label in labels[test]} - {names[label] for label in labels[train]})
        if absent:
            raise UsageError(
                f"data.manifest: {len(absent)} class(es) have test videos but no training videos, such as {absent[0]}"
            )
    return LabelledSplit(train, test, labels, np.unique(groups(manifest), return_inverse=True)[1], names)


def tested_split(manifest: pa.Table, data: DataConfig) -> str:
    """The split to test on. It can differ from `data.test_split`, see `held_out_split`."""
    split = held_out_split(manifest, data, data.test_split)
    if split != data.test_split:
        log.warning("note: no video has split %r (data.test_split); testing on split %r", data.test_split, split)
    return str(split)


def refuse_seen(trained_on: DataConfig, manifest: pa.Table, test: NDArray[np.int64]) -> None:
    """Refuse to test an action model on its own training videos.

    Args:
        trained_on: data configuration of the run. Its manifests may no longer exist.

    Raises:
        UsageError: the model was trained on some of the test videos and their labels.
    """
    tables = [read_manifest(path) for path in trained_on.manifests if path.is_file()]
    rows = [row for table in tables for row in table.select(["video_id", "path", "split"]).to_pylist()]
    learnt = [row for row in rows if row["split"] in (trained_on.train_split, None)]
    seen = {row["video_id"] for row in learnt} if len(trained_on.manifests) == 1 else set()
    files = {real_path(row["path"]) for row in learnt}
    tests = manifest.take(pa.array(test)).select(["video_id", "path"]).to_pylist()
    ids = [row["video_id"] for row in tests]
    seen |= {row["video_id"] for row in tests if real_path(row["path"]) in files}
    if both := seen.intersection(ids):
        raise UsageError(
            f"--split: the checkpoint was trained on {len(both)} of the {len(ids)} test videos, such as {min(both)}; "
            "evaluate it on its own split, and train one model for each split"
        )


def _splits(manifest: pa.Table, number: int | None) -> NDArray[np.object_]:
    if number is None:
        return np.asarray(manifest.column("split").to_pylist(), dtype=object)
    there = num_official_splits(manifest)
    if number > there:
        raise UsageError(
            f"--split: got {number}, but the manifest has {there or 'no'} official split(s); index the videos again, "
            "with the lists of a data set that has official splits (ucf101, hmdb51), or with --test-fraction"
        )
    every = manifest.column("official_splits").to_pylist()
    return np.asarray([splits[number - 1] if splits else None for splits in every], dtype=object)


def _relabelled(
    names: list[str], labels: NDArray[np.int64], test: NDArray[np.int64], known: Sequence[str]
) -> NDArray[np.int64]:
    """Map the labels to the order of the model's head, because another manifest can order the classes differently."""
    place = {name: index for index, name in enumerate(known)}
    unknown = sorted({names[label] for label in labels[test]} - place.keys())
    if unknown:
        raise UsageError(
            f"data.manifest: the model does not know {len(unknown)} of the test classes, such as {unknown[0]}; "
            f"it knows {len(known)} classes, such as {known[0]}"
        )
    return np.asarray([place.get(names[label], -1) if label >= 0 else -1 for label in labels], dtype=np.int64)
