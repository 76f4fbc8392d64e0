"""Selects the labelled videos that a protocol trains on and the videos that it is tested on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError
from advise_ray.video.manifest import read_manifest
from advise_ray.video.row_keys import file_keys, text_keys
from advise_ray.video.splits import groups, held_out_split, named_classes

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
    return pc.max(pc.list_value_length(manifest.column("official_splits"))).as_py() or 0


def labelled_split(manifest: pa.Table, data: DataConfig, number: int | None, known: Sequence[str]) -> LabelledSplit:
    """Select the labelled training and test videos.

    Args:
        number: number of an official split, from 1; None for the manifest's `split` column.
        known: class names of the model's head; empty if the protocol does not use the head.

    Raises:
        UsageError: there are no labels or no test videos, or a test class has no training videos or is unknown to
            the model.
    """
    split = _split_column(manifest, number)
    test_split = tested_split(manifest, data) if number is None else data.test_split
    labelled = np.asarray(manifest.column("label").is_valid())
    if not labelled.any():
        raise UsageError(
            "data.manifest: this protocol needs labels, but no video has a label; index the videos with the data set's "
            "lists, or from folders that are named after the classes"
        )
    names, labels = named_classes(manifest), np.asarray(manifest.column("label").fill_null(-1))
    test = np.flatnonzero(labelled & _equal(split, test_split))
    train = np.flatnonzero(labelled & _equal(split, data.train_split))
    there = ", ".join(sorted(pc.unique(split).drop_null().to_pylist())) or "none"
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
        absent = sorted(names[label] for label in np.setdiff1d(labels[test], labels[train]))
        if absent:
            raise UsageError(
                f"data.manifest: {len(absent)} class(es) have test videos but no training videos, such as {absent[0]}"
            )
    return LabelledSplit(train, test, labels, _numbered(groups(manifest)), names)


def tested_split(manifest: pa.Table, data: DataConfig) -> str:
    """The split to test on. It can differ from `data.test_split`, see `held_out_split`."""
    split = held_out_split(manifest, data, data.test_split)
    if split != data.test_split:
        log.warning("note: no video has split %r (data.test_split); testing on split %r", data.test_split, split)
    return str(split)


def refuse_seen(
    trained_on: DataConfig, manifest: pa.Table, test: NDArray[np.int64], *, is_same_manifest: bool = False
) -> None:
    """Refuse to test an action model on its own training videos.

    Args:
        trained_on: data configuration of the run. Its manifests may no longer exist.
        is_same_manifest: `manifest` has the rows that the run was trained on, also if its file was moved.

    Raises:
        UsageError: the model was trained on some of the test videos and their labels.
    """
    tests = manifest.select(["video_id", "path"]).take(pa.array(test))
    is_seen = np.zeros(len(tests), dtype=bool)
    paths = [] if is_same_manifest else trained_on.manifests
    for path in paths:
        if not path.is_file():
            log.warning("note: %s is not there any more: test videos may be training videos", path)
    for table in [manifest] if is_same_manifest else (read_manifest(path) for path in paths if path.is_file()):
        split = table.column("split")
        is_learnt = np.asarray(split.is_null()) | _equal(split, trained_on.train_split)
        is_seen |= np.isin(file_keys(tests.column("path")), file_keys(table.column("path"))[is_learnt])
        if len(trained_on.manifests) == 1:
            is_seen |= np.isin(text_keys(tests.column("video_id")), text_keys(table.column("video_id"))[is_learnt])
    if is_seen.any():
        first = pc.min(tests.column("video_id").filter(pa.array(is_seen))).as_py()
        raise UsageError(
            f"--split: the checkpoint was trained on {is_seen.sum()} of the {len(tests)} test videos, such as {first}; "
            "evaluate it on its own split, and train one model for each split"
        )


def _equal(texts: pa.ChunkedArray, text: str) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(texts, text), False))


def _numbered(texts: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the place of each text among the different texts in alphabetic order, int64[n]."""
    codes = texts.combine_chunks().dictionary_encode()
    order = np.asarray(pc.sort_indices(codes.dictionary)).astype(np.int64)
    return np.argsort(order)[np.asarray(codes.indices)]


def _split_column(manifest: pa.Table, number: int | None) -> pa.ChunkedArray:
    if number is None:
        return manifest.column("split")
    there = num_official_splits(manifest)
    if number > there:
        raise UsageError(
            f"--split: got {number}, but the manifest has {there or 'no'} official split(s); index the videos again, "
            "with the lists of a data set that has official splits (ucf101, hmdb51), or with --test-fraction"
        )
    every = manifest.column("official_splits")
    return pc.list_element(pc.if_else(pc.greater_equal(pc.list_value_length(every), number), every, None), number - 1)


def _relabelled(
    names: list[str], labels: NDArray[np.int64], test: NDArray[np.int64], known: Sequence[str]
) -> NDArray[np.int64]:
    """Map the labels to the order of the model's head, because another manifest can order the classes differently."""
    place = {name: index for index, name in enumerate(known)}
    unknown = sorted({names[label] for label in np.unique(labels[test])} - place.keys())
    if unknown:
        raise UsageError(
            f"data.manifest: the model does not know {len(unknown)} of the test classes, such as {unknown[0]}; "
            f"it knows {len(known)} classes, such as {known[0]}"
        )
    numbers = np.asarray([*(place.get(name, -1) for name in names), -1], dtype=np.int64)  # the last is that of label -1
    return numbers[labels]
