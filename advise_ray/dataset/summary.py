"""Statistics of a manifest's videos, and the summaries that `data index`, `data check` and `data stats` print."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST = 8
"""Number of most common values that are listed; the rest is counted as `other`."""


class Statistics(TypedDict):
    """Statistics of a manifest's videos.

    Attributes:
        hours: total duration in hours.
        duration_s: `min`, `median` and `max` of the durations in seconds.
        sizes_px, fps, codecs, decoders: number of videos by `WIDTH×HEIGHT`, by frames per second, by codec, by decoder.
    """

    hours: float
    duration_s: dict[str, float]
    sizes_px: dict[str, int]
    fps: dict[str, int]
    codecs: dict[str, int]
    decoders: dict[str, int]


class IndexSummary(Statistics):
    """The output of `data index --json`.

    Attributes:
        manifest: path of the manifest.
        videos: number of videos in the manifest.
        probed: number of files that this run has read.
        rejected: number of files that cannot be read.
        missing: number of listed videos without a file.
        unreadable_lines: number of invalid lines of the list.
        skipped: number of skipped paths, such as unreadable folders.
        other_files: number of ignored files by kind.
        end_before_listed: number of videos that end before the list says.
        rejects: path of the rejects file. None if there are no rejects.
        first_problems: up to five rejects, video_id → reason.
        classes: number of classes.
        splits: split → number of `listed`, `readable` and `missing` videos.
        kept_damaged: number of damaged videos of which the readable part is kept.
        notes: notes for the user.
    """

    manifest: str
    videos: int
    probed: int
    rejected: int
    missing: int
    unreadable_lines: int
    skipped: int
    other_files: dict[str, int]
    end_before_listed: int
    rejects: str | None
    first_problems: dict[str, str]
    classes: int
    splits: dict[str, dict[str, int]]
    kept_damaged: int
    notes: list[str]


class CheckSummary(TypedDict):
    """The output of `data check --json`.

    Attributes:
        videos: number of videos of the manifest.
        rejected: number of videos that fail or have changed.
        rejects: path of the rejects file.
        manifest: path of the manifest without the rejected videos. None if none was asked for.
        first_problems: up to five rejects, video_id → reason.
    """

    videos: int
    rejected: int
    rejects: str
    manifest: str | None
    first_problems: dict[str, str]


class Facts(Statistics):
    """The facts of the page of `data stats`.

    Attributes:
        videos: number of videos.
        classes: number of classes.
        splits: number of videos by split.
        rate_fits_fraction: for each rate, the fraction of videos that are long enough for it.
    """

    videos: int
    classes: int
    splits: dict[str, int]
    rate_fits_fraction: dict[str, float]


class StatsSummary(Facts):
    """The output of `data stats --json`: the facts, and `report`, the path of the page."""

    report: str


def describe(manifest: pa.Table) -> Statistics:
    """Compute the statistics. A manifest has at least one video, so this raises nothing."""
    durations_s = np.asarray(manifest.column("duration_s"), dtype=float)
    sizes = pc.binary_join_element_wise(*(manifest.column(name).cast(pa.string()) for name in ("width", "height")), "×")
    return {
        "hours": round(float(durations_s.sum()) / 3600, 3),
        "duration_s": {
            "min": round(float(durations_s.min()), 2),
            "median": round(float(np.median(durations_s)), 2),
            "max": round(float(durations_s.max()), 2),
        },
        "sizes_px": _most_common(counted(sizes)),
        "fps": _most_common(_rounded(counted(manifest.column("fps")))),
        "codecs": _most_common(counted(manifest.column("codec"))),
        "decoders": _most_common(counted(manifest.column("decoder"))),
    }


def counted(values: pa.ChunkedArray) -> Counter[Any]:
    """Count the values of a column, in the order in which they first appear."""
    return Counter({each["values"].as_py(): each["counts"].as_py() for each in pc.value_counts(values)})


def _rounded(counts: Counter[float]) -> Counter[str]:
    rounded = Counter[str]()
    for fps, count in counts.items():
        rounded[f"{fps:.5g}"] += count
    return rounded


def _most_common(counted: Counter[str]) -> dict[str, int]:
    counts = counted.most_common()
    rest = sum(count for _, count in counts[MOST:])
    return dict(counts[:MOST]) | ({"other": rest} if rest else {})
