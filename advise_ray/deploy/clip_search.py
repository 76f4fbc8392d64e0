"""`search`: clips like another clip, odd clips, and near-identical clips, from the file that `embed` wrote."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from advise_ray.deploy.clip_index import ClipIndex, read_index
from advise_ray.deploy.like import Query, find_query
from advise_ray.deploy.neighbours import Found, OnProgress, duplicates, most_alike, odd

NEAR_IDENTICAL = 0.995
"""Lowest cosine of near-identical clips."""


class Match(TypedDict, total=False):
    """A clip that a search lists, or a pair of clips.

    Attributes:
        rank: from 1.
        video_id, start_s, end_s: the clip, in seconds of its video.
        similarity: cosine to the query, or of a pair; from -1 to 1.
        distance: only of odd clips: mean cosine distance (1 - cosine) to the nearest clips.
        other_video_id, other_start_s, other_end_s: only of pairs: the second clip.
        pairs: only of pairs: number of near-identical pairs that these two videos have. The most similar one is listed.
    """

    rank: int
    video_id: str
    start_s: float
    end_s: float
    similarity: float
    distance: float
    other_video_id: str
    other_start_s: float
    other_end_s: float
    pairs: int


class Asked(TypedDict):
    """The query of `--like`: its video, where its first clip starts and its last one ends, and how many it has."""

    video: str
    start_s: float
    end_s: float
    clips: int


class SearchResult(TypedDict):
    """What a search has found.

    Attributes:
        embeddings: path of the file.
        clips, videos: how many the file has.
        query: None, unless a clip was given.
        total: number of clips or pairs of videos that could be listed.
        is_exact: whether no better one can be missing.
    """

    embeddings: str
    clips: int
    videos: int
    query: Asked | None
    matches: list[Match]
    total: int
    is_exact: bool
    wall_s: float


@dataclass(frozen=True)
class Answer:
    """A result, and the rows of its clips in the index: int64[n], or int64[n, 2] for pairs; and those of the query."""

    result: SearchResult
    rows: NDArray[np.int64]
    query_rows: NDArray[np.int64]


class Search:
    """Searches of one embeddings file.

    Raises:
        UsageError: see `read_index`.
    """

    def __init__(self, path: Path, on_progress: OnProgress = lambda done, total: None) -> None:
        self.index = read_index(path)
        self._on_progress = on_progress
        self._started_s = time.monotonic()

    def like(self, clip: str, top: int, run: str | None = None) -> Answer:
        """List the clips that are most like a clip, which is left out with those that overlap it.

        Args:
            clip: id of a video of the file, or a video file; with `@START-END` the clips at these seconds.
            run: see `find_query`.

        Raises:
            UsageError: see `find_query`.
        """
        query = find_query(clip, self.index, run)
        left_out = np.zeros(len(self.index), bool)
        left_out[query.rows] = True
        rows, cosines = most_alike(self.index, query.vectors, left_out, top)
        matches: list[Match] = [
            {"rank": rank, **_clip(self.index, row), "similarity": round(float(cosine), 4)}  # type: ignore[typeddict-item]
            for rank, (row, cosine) in enumerate(zip(rows, cosines, strict=True), 1)
        ]
        return self._answer(matches, rows, int((~left_out).sum()), is_exact=True, query=query)

    def odd(self, top: int) -> Answer:
        """List the clips that are farthest from their nearest neighbours."""
        found = odd(self.index.read(), top, self._on_progress)
        matches: list[Match] = [
            {"rank": rank, **_clip(self.index, row), "distance": round(float(distance), 4)}  # type: ignore[typeddict-item]
            for rank, (row, distance) in enumerate(zip(found.places, found.scores, strict=True), 1)
        ]
        return self._answer(matches, found.places, len(self.index), found.is_exact)

    def duplicates(self, top: int) -> Answer:
        """List pairs of videos with near-identical clips: for each pair of videos its most similar clips."""
        found = duplicates(self.index.read(), NEAR_IDENTICAL, self._on_progress)
        firsts, counts = _by_videos(found, self.index)
        matches = []
        for rank, (place, count) in enumerate(zip(firsts[:top], counts[:top], strict=True), 1):
            clip, other = (_clip(self.index, row) for row in found.places[place])
            second = {f"other_{name}": value for name, value in other.items()}
            similarity = round(float(found.scores[place]), 4)
            matches.append(Match(rank=rank, **clip, **second, similarity=similarity, pairs=int(count)))  # type: ignore[typeddict-item]
        return self._answer(matches, found.places[firsts[:top]], len(firsts), found.is_exact)

    def _answer(
        self, matches: list[Match], rows: NDArray[np.int64], total: int, is_exact: bool, query: Query | None = None
    ) -> Answer:
        asked: Asked | None = None
        if query is not None:
            start_s, end_s = (round(float(each), 3) for each in (query.start_s.min(), query.end_s.max()))
            asked = {"video": query.name, "start_s": start_s, "end_s": end_s, "clips": len(query.vectors)}
        result: SearchResult = {
            "embeddings": str(self.index.path),
            "clips": len(self.index),
            "videos": len(self.index.video_ids),
            "query": asked,
            "matches": matches,
            "total": total,
            "is_exact": is_exact,
            "wall_s": round(time.monotonic() - self._started_s, 1),
        }
        return Answer(result, rows, np.empty(0, np.int64) if query is None else query.rows)


class _Clip(TypedDict):
    video_id: str
    start_s: float
    end_s: float


def _clip(index: ClipIndex, row: int) -> _Clip:
    start_s, end_s = (round(float(each[row]), 3) for each in (index.start_s, index.end_s))
    return {"video_id": index.video_ids[index.video[row]], "start_s": start_s, "end_s": end_s}


def _by_videos(found: Found, index: ClipIndex) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of the best pair of each pair of videos, best first, and how many pairs these videos have."""
    videos = np.sort(index.video[found.places].astype(np.int64), axis=1)
    keys = videos[:, 0] * len(index.video_ids) + videos[:, 1]
    _, firsts, counts = np.unique(keys, return_index=True, return_counts=True)
    order = np.argsort(firsts)
    return firsts[order], counts[order]
