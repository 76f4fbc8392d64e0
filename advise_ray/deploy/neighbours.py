"""Nearest neighbours among embeddings by cosine, in blocks: memory does not grow with the number of clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advise_ray.deploy.clip_index import ClipIndex, Clips

NUM_NEIGHBOURS = 8
QUERY_BLOCK, BLOCK = 1024, 8192
"""Numbers of clips that are compared at once."""
MOST_PAIRS = 2_500_000_000
"""Each clip is compared with each other one up to this number of pairs (50,000 clips); beyond, with a part of them."""
FEWEST_CANDIDATES = 1000
WINDOW = 1024
"""Beyond `MOST_PAIRS`: duplicates are looked for among this number of clips that are next to each other, twice."""
CELL_CLIPS = 1000
"""Beyond `MOST_PAIRS`: average number of clips in a cell."""

OnProgress = Callable[[int, int], None]
Places = NDArray[np.int64]
Cosines = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What a search lists, best first.

    Attributes:
        places: int64[n], or for pairs int64[n, 2]: places in the `Clips`.
        scores: float32[n], cosines or distances.
        is_exact: whether it is certain that no better one is missing.
    """

    places: Places
    scores: Cosines
    is_exact: bool


def most_alike(index: ClipIndex, queries: Cosines, left_out: NDArray[np.bool_], top: int) -> tuple[Places, Cosines]:
    """Compare all clips of a file with a query, reading the file once.

    Args:
        queries: float32[Q, E], of length 1. The cosine of a clip is the highest one over these.
        left_out: bool[n], the clips that are not listed.

    Returns:
        Rows int64[≤ top] and cosines float32[≤ top], highest first.
    """
    rows, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
    for block, vectors in index.blocks():
        parts = [queries[start : start + QUERY_BLOCK] @ vectors.T for start in range(0, len(queries), QUERY_BLOCK)]
        highest = np.max([part.max(0) for part in parts], axis=0)
        listed = np.flatnonzero(~left_out[block])
        rows, cosines = np.concatenate([rows, block.start + listed]), np.concatenate([cosines, highest[listed]])
        order = np.argsort(-cosines, kind="stable")[:top]
        rows, cosines = rows[order], cosines[order]
    return rows, cosines


def nearest(
    clips: Clips, of: Places, among: Places, k: int, on_progress: OnProgress = lambda done, total: None
) -> tuple[Places, Cosines]:
    """Find the k nearest clips, exactly. Clips of the same video that overlap in time are no neighbours.

    Args:
        of: int64[m], places of the clips whose neighbours are wanted.
        among: int64[r], places of the clips that can be neighbours.

    Returns:
        Places int64[m, k] and cosines float32[m, k], highest first; -1 and -inf where there are fewer.
    """
    places, cosines = np.full((len(of), k), -1, np.int64), np.full((len(of), k), -np.inf, np.float32)
    for start in range(0, len(of), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        vectors = clips.vectors[of[rows]].astype(np.float32)
        for first in range(0, len(among), BLOCK):
            others = among[first : first + BLOCK]
            block = vectors @ clips.vectors[others].astype(np.float32).T
            block[clips.overlap(of[rows], others)] = -np.inf
            best = np.argpartition(block, -k, axis=1)[:, -k:] if len(others) > k else np.arange(len(others))[None]
            best = np.broadcast_to(best, (len(block), best.shape[1]))
            _merge(places[rows], cosines[rows], others[best], np.take_along_axis(block, best, axis=1))
        on_progress(min(rows.stop, len(of)), len(of))
    places[np.isneginf(cosines)] = -1
    return places, cosines


def _merge(places: Places, cosines: Cosines, new_places: Places, new_cosines: Cosines) -> None:
    """Keep the k best of the old and the new ones in `places` and `cosines`, in order."""
    both, values = np.concatenate([places, new_places], 1), np.concatenate([cosines, new_cosines], 1)
    order = np.argsort(-values, axis=1, kind="stable")[:, : places.shape[1]]
    places[:], cosines[:] = np.take_along_axis(both, order, 1), np.take_along_axis(values, order, 1)


def odd(clips: Clips, top: int, on_progress: OnProgress = lambda done, total: None) -> Found:
    """Find the clips with the highest mean cosine distance to their nearest neighbours.

    With many clips, each is first compared with a sample. A distance to the nearest of a sample is never smaller than
    the distance to the nearest of all, so the clips that are far from the sample are the candidates; these are compared
    with all clips.
    """
    everything = np.arange(len(clips))
    size = min(len(clips), MOST_PAIRS // len(clips))
    sample = np.sort(np.random.default_rng(0).choice(len(clips), size, replace=False))
    rough = _mean_distance(nearest(clips, everything, sample, NUM_NEIGHBOURS, on_progress)[1])
    order = np.argsort(-rough, kind="stable")
    if size == len(clips):
        listed = order[np.isfinite(rough[order])][:top]
        return Found(listed, rough[listed], is_exact=True)
    candidates, rest = np.split(order, [max(FEWEST_CANDIDATES, 5 * top)])
    distances = _mean_distance(nearest(clips, candidates, everything, NUM_NEIGHBOURS, on_progress)[1])
    best = np.argsort(-distances, kind="stable")[:top]
    is_exact = not len(rest) or bool(rough[rest[0]] <= distances[best[-1]])
    return Found(candidates[best], distances[best], is_exact)


def _mean_distance(cosines: Cosines) -> Cosines:
    """float32[m, k] → float32[m]; -inf for a clip without neighbours."""
    there = np.isfinite(cosines)
    count = there.sum(1)
    mean = 1 - np.where(there, cosines, 0).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, np.maximum(mean, 0), -np.inf).astype(np.float32)


def duplicates(clips: Clips, least: float, on_progress: OnProgress = lambda done, total: None) -> Found:
    """Find pairs of clips with a cosine of at least `least`; for each clip, with its nearest neighbours.

    With many clips, only clips that are about equally near to the same landmark (a random clip) are compared; each clip
    has two landmarks.
    """
    count = len(clips)
    if count * count <= MOST_PAIRS:
        chunks = [(np.arange(count), np.arange(count))]
    else:
        line = _by_landmarks(clips)
        starts = range(0, len(line), WINDOW)
        chunks = [(line[start : start + WINDOW], np.unique(line[start : start + 2 * WINDOW])) for start in starts]
    pairs, scores, is_cut = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)], False
    for done, (of, among) in enumerate(chunks, 1):
        show = on_progress if len(chunks) == 1 else lambda *_: None
        places, cosines = nearest(clips, of, among, NUM_NEIGHBOURS, show)
        row, column = np.nonzero(cosines >= least)
        is_cut |= bool((cosines[:, -1] >= least).any())  # there may be more than NUM_NEIGHBOURS
        pairs.append(np.sort(np.stack([of[row], places[row, column]], 1), axis=1))
        scores.append(cosines[row, column])
        if len(chunks) > 1:
            on_progress(done, len(chunks))
    every, cosine = np.concatenate(pairs), np.concatenate(scores)
    _, firsts = np.unique(every[:, 0] * count + every[:, 1], return_index=True)
    order = firsts[np.argsort(-cosine[firsts], kind="stable")]
    return Found(every[order], cosine[order], is_exact=len(chunks) == 1 and not is_cut)


def _by_landmarks(clips: Clips) -> Places:
    """Each clip twice, int64[2 m], in the order of its two nearest landmarks and of the cosine to them."""
    rng = np.random.default_rng(0)
    landmarks = clips.vectors[np.sort(rng.choice(len(clips), max(2, len(clips) // CELL_CLIPS), replace=False))]
    landmarks = landmarks.astype(np.float32)
    cells, cosines = np.empty((len(clips), 2), np.int64), np.empty((len(clips), 2), np.float32)
    for start in range(0, len(clips), BLOCK):
        rows = slice(start, start + BLOCK)
        block = clips.vectors[rows].astype(np.float32) @ landmarks.T
        cells[rows] = np.argpartition(block, -2, axis=1)[:, -2:]
        cosines[rows] = np.take_along_axis(block, cells[rows], axis=1)
    places = np.repeat(np.arange(len(clips)), 2)
    return places[np.lexsort((cosines.ravel(), cells.ravel()))]
