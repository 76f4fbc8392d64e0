"""The data sets of a suite: a manifest of training and test videos for each seed and each number of labels."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError
from advise_ray.evaluation.labels import labelled_split, num_official_splits
from advise_ray.video.manifest import SCHEMA, ManifestRow, read_manifest, write_manifest
from advise_ray.video.random_split import deal
from advise_ray.video.sampling import keyed_rng
from advise_ray.video.splits import groups

FOLDS = 2
"""Number of folds of the training videos, used to choose learning rates."""
UNUSED = "unused"
"""Split of the videos that a run does not use."""


@dataclass(frozen=True)
class LabelledSet:
    """A manifest with labels and test videos.

    If there are several official splits, the seeds use them in turn, so that all recordings are held out by some seed.

    Attributes:
        folder: folder for the manifests of the runs.
        on_folds: do not use the test videos. Instead, test on a fold of the training videos (whole groups), in order to
            choose settings without the test videos.
    """

    name: str
    manifest: Path
    folder: Path
    on_folds: bool = False

    def write_all(self, seeds: Iterable[int], labels: Iterable[int | None]) -> None:
        """Write all manifests of the set, before parallel processes read them.

        Raises:
            UsageError: a manifest has no training or no test videos, or a test class has no training videos.
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
        """The manifest of a seed with all labels."""
        return self._write_once(self._name(seed), lambda: self._rows(seed))

    def few_labels(self, seed: int, labels: int) -> Path:
        """The manifest of a seed with `labels` random training videos per class."""
        return self._write_once(f"seed-{seed}-labels-{labels}", lambda: self._few(seed, labels))

    def fold(self, seed: int, number: int) -> Path:
        """The manifest of a seed's training videos only; one fold of them (whole groups) is the test split."""
        return self._write_once(f"{self._name(seed)}-fold-{number}", lambda: _folded(self._rows(seed), number))

    def _few(self, seed: int, labels: int) -> list[ManifestRow]:
        rows = self._rows(seed)
        by_class = defaultdict(list)
        for place, row in enumerate(rows):
            if row["split"] == "train" and row["label"] is not None:
                by_class[row["label"]].append(place)
        for label, places in by_class.items():
            rng = keyed_rng(seed, "labels", self.name, label)  # the 4-label videos are among the 8-label videos
            for left_out in rng.permutation(places)[labels:]:
                rows[left_out]["split"] = UNUSED
        return rows

    def _name(self, seed: int) -> str:
        split, fold = self._place(seed)
        return f"split-{split + 1}" + (f"-held-{fold + 1}" if self.on_folds else "")

    def _place(self, seed: int) -> tuple[int, int]:
        """The official split of a seed, and with `on_folds` the fold."""
        splits = max(num_official_splits(_read(self.manifest)), 1)
        return seed % splits, seed // splits % FOLDS

    def _rows(self, seed: int) -> list[ManifestRow]:
        table, (split, fold) = _read(self.manifest), self._place(seed)
        rows: list[ManifestRow] = table.to_pylist()
        for row, group in zip(rows, groups(table).to_pylist(), strict=True):
            row["group"] = group
            if row["official_splits"]:
                row["split"] = row["official_splits"][split]
        return _folded(rows, fold) if self.on_folds else rows

    def _write_once(self, name: str, make: Callable[[], list[ManifestRow]]) -> Path:
        path = self.folder / f"{self.name}-{name}.parquet"
        if not path.exists():
            rows = make()
            labelled_split(pa.Table.from_pylist(rows, schema=SCHEMA), DataConfig(), None, [])
            write_manifest(rows, path)
        return path


def _folded(rows: list[ManifestRow], number: int) -> list[ManifestRow]:
    """Keep only the training videos, and make one of their folds the test split."""
    free = [row for row in rows if row["split"] == "train" and row["label"] is not None]
    classes, held_together = [str(row["label"]) for row in free], [str(row["group"]) for row in free]
    parts = deal(classes, held_together, [1 / FOLDS] * FOLDS)
    if len(set(zip(classes, parts, strict=True))) < FOLDS * len(set(classes)):
        # Some class has too few recordings for each fold to have one, so split by single videos.
        parts = deal(classes, [row["video_id"] for row in free], [1 / FOLDS] * FOLDS)
    for row in rows:
        row["split"] = UNUSED
    for row, part in zip(free, parts, strict=True):
        row["split"] = "test" if part == number else "train"
    return rows


@functools.lru_cache
def _read(manifest: Path) -> pa.Table:
    """Read a manifest once in each process, because a set that is sent to a process has only its path."""
    return read_manifest(manifest)


def read_suite(manifests: Sequence[Path], folder: Path, *, on_folds: bool = False) -> list[LabelledSet]:
    """The sets of the manifests. Each set has the name of its file.

    Raises:
        UsageError: two manifests have the same name.
    """
    sets = [LabelledSet(path.stem, path, folder, on_folds) for path in manifests]
    names = [each.name for each in sets]
    if len(set(names)) < len(names):
        raise UsageError(f"--manifest: two manifests have the same name ({', '.join(names)}); rename one of the files")
    return sets
