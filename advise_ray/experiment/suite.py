"""The sets of a suite: for each seed and each number of labels, a manifest of what is learnt from and tested on."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError
from advise_ray.evaluation.labels import labelled_split, num_official_splits
from advise_ray.video.dealing import deal
from advise_ray.video.manifest import SCHEMA, groups, read_manifest, write_manifest
from advise_ray.video.sampling import keyed_rng

FOLDS = 2
"""Of the training videos, by which learning rates are chosen."""
UNUSED = "unused"
"""Split of the videos that a run does not see."""
Row = dict[str, Any]


@dataclass(frozen=True)
class LabelledSet:
    """A manifest with labels and test videos.

    With several official splits, each seed has another one, by turns: where few recordings are held out at a time, all
    are in their turn.

    Attributes:
        folder: of the manifests that are made of it.
        on_folds: its test videos are left out altogether, and some of its training videos (whole groups) are tested on
            in their place: settings are chosen so, without a look at what judges them.
    """

    name: str
    manifest: Path
    folder: Path
    on_folds: bool = False

    def write_all(self, seeds: Iterable[int], labels: Iterable[int | None]) -> None:
        """Every manifest of the set, before processes that run side by side look for them.

        Raises:
            UsageError: one has no training or no test videos, or classes to be tested that nothing is known of.
        """
        labels = list(labels)
        for seed in seeds:
            self.of_seed(seed)
            for count in labels:
                if count is not None:
                    self.few_labels(seed, count)
        for number in range(FOLDS):
            self.fold(0, number)

    def of_seed(self, seed: int) -> Path:
        """With all labels."""
        return self._made(self._name(seed), lambda: self._rows(seed))

    def few_labels(self, seed: int, labels: int) -> Path:
        """With so many training videos of each class, drawn by the seed."""
        return self._made(f"seed-{seed}-labels-{labels}", lambda: self._few(seed, labels))

    def fold(self, seed: int, number: int) -> Path:
        """Training videos alone, some of them (whole groups) held out for testing."""
        return self._made(f"{self._name(seed)}-fold-{number}", lambda: _folded(self._rows(seed), number))

    def _few(self, seed: int, labels: int) -> list[Row]:
        rows = self._rows(seed)
        by_class = defaultdict(list)
        for place, row in enumerate(rows):
            if row["split"] == "train" and row["label"] is not None:
                by_class[row["label"]].append(place)
        for label, places in by_class.items():
            rng = keyed_rng(seed, "labels", self.name, label)  # the first four are among the first eight
            for left_out in rng.permutation(places)[labels:]:
                rows[left_out]["split"] = UNUSED
        return rows

    def _name(self, seed: int) -> str:
        split, fold = self._place(seed)
        return f"split-{split + 1}" + (f"-held-{fold + 1}" if self.on_folds else "")

    def _place(self, seed: int) -> tuple[int, int]:
        """Which official split, and with `on_folds` which of its folds."""
        splits = max(num_official_splits(_read(self.manifest)), 1)
        return seed % splits, seed // splits % FOLDS

    def _rows(self, seed: int) -> list[Row]:
        table, (split, fold) = _read(self.manifest), self._place(seed)
        rows: list[Row] = table.to_pylist()
        for row, group in zip(rows, groups(table), strict=True):
            row["group"] = group
            if row["official_splits"]:
                row["split"] = row["official_splits"][split]
        return _folded(rows, fold) if self.on_folds else rows

    def _made(self, name: str, make: Callable[[], list[Row]]) -> Path:
        path = self.folder / f"{self.name}-{name}.parquet"
        if not path.exists():
            rows = make()
            labelled_split(pa.Table.from_pylist(rows, schema=SCHEMA), DataConfig(), None, [])
            write_manifest(rows, path)
        return path


def _folded(rows: list[Row], number: int) -> list[Row]:
    """Training videos alone, one of their folds to be tested on."""
    free = [row for row in rows if row["split"] == "train" and row["label"] is not None]
    classes, held_together = [str(row["label"]) for row in free], [row["group"] for row in free]
    parts = deal(classes, held_together, [1 / FOLDS] * FOLDS)
    if len(set(zip(classes, parts, strict=True))) < FOLDS * len(set(classes)):
        # A class of one recording: clips of it are all there is to choose by.
        parts = deal(classes, [row["video_id"] for row in free], [1 / FOLDS] * FOLDS)
    for row in rows:
        row["split"] = UNUSED
    for row, part in zip(free, parts, strict=True):
        row["split"] = "test" if part == number else "train"
    return rows


@functools.lru_cache
def _read(manifest: Path) -> pa.Table:
    """Once in each process; it is not sent to them with the set."""
    return read_manifest(manifest)


def read_suite(manifests: Sequence[Path], folder: Path, *, on_folds: bool = False) -> list[LabelledSet]:
    """The sets, called by their manifests' names.

    Raises:
        UsageError: two have one name.
    """
    sets = [LabelledSet(path.stem, path, folder, on_folds) for path in manifests]
    names = [each.name for each in sets]
    if len(set(names)) < len(names):
        raise UsageError(f"--manifest: two of one name ({', '.join(names)}); rename a file")
    return sets
