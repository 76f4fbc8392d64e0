"""Bootstrap confidence intervals: resamples seeds and test videos, and optionally the data sets too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
Correct = Mapping[str, float]
"""video_id → 1 if the video was classified correctly, else 0. For two arms: the difference of these values."""


class Interval(TypedDict):
    """A mean with its 95 % confidence interval, from `low` to `high`."""

    mean: float
    low: float
    high: float


def paired(ours: Correct, theirs: Correct) -> Correct:
    """Difference of two arms on each video of the same test."""
    return {video_id: ours[video_id] - theirs[video_id] for video_id in ours}


def mean_over_sets(sets: Mapping[str, Mapping[int, Correct]], *, over_sets: bool = False, seed: int = 0) -> Interval:
    """The mean over sets of the mean over seeds of the mean over test videos, with its interval.

    Each draw samples seeds and test videos with replacement. It uses the same seeds for all sets, because a seed's
    pretraining is the same for all sets, and the same test videos for all seeds of a set. Each set has the same weight.

    Args:
        sets: name → seed → test result. Seeds can have different test videos.
        over_sets: sample the sets too. The interval then also covers new data sets.
    """
    rng = np.random.default_rng(seed)
    seeds = sorted({each for tests in sets.values() for each in tests})
    tables = [_table(tests, seeds) for tests in sets.values()]
    draws = np.empty(DRAWS)
    for number in range(DRAWS):
        chosen = rng.integers(len(seeds), size=len(seeds))
        which: Sequence[int] = rng.integers(len(tables), size=len(tables)).tolist() if over_sets else range(len(tables))
        means = [_mean(tables[place], rng, chosen) for place in which]
        draws[number] = np.mean([mean for mean in means if not np.isnan(mean)] or [np.nan])
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    mean = float(
        np.mean([np.mean([np.mean(list(test.values())) for test in tests.values()]) for tests in sets.values()])
    )
    return Interval(mean=mean, low=float(low), high=float(high))


def _table(tests: Mapping[int, Correct], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Table of results, float64[seeds, videos]; nan if a seed does not test a video."""
    videos = {video_id: place for place, video_id in enumerate(sorted(set().union(*tests.values())))}
    table = np.full((len(seeds), len(videos)), np.nan)
    for row, seed in enumerate(seeds):
        for video_id, value in tests.get(seed, {}).items():
            table[row, videos[video_id]] = value
    return table


def _mean(table: NDArray[np.float64], rng: np.random.Generator, seeds: NDArray[np.int64]) -> float:
    """Mean of one draw. A video that is drawn twice counts twice."""
    videos = table.shape[1]
    weights = np.bincount(rng.integers(videos, size=videos), minlength=videos) * ~np.isnan(table[seeds])
    sums, counts = (weights * np.nan_to_num(table[seeds])).sum(axis=1), weights.sum(axis=1)
    tested = counts > 0
    return float((sums[tested] / counts[tested]).mean()) if tested.any() else np.nan
