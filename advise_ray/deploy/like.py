"""The query of `search --like`: clips of a video that the embeddings file has, or of a video file that is embedded."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advise_ray.deploy.clip_index import ClipIndex
from advise_ray.deploy.embed_groups import version_of
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage.remote import is_url

SPANNED = re.compile(r"(?P<name>.+)@(?P<span>[^@/]*)", re.DOTALL)
SPAN = re.compile(r"(\d+\.?\d*|\.\d+)-(\d+\.?\d*|\.\d+)")
MOST_COMPARED_IDS = 20_000
"""Number of ids among which a similar one is looked for."""


@dataclass(frozen=True)
class Query:
    """Clips that others are compared with.

    Attributes:
        name: video id, path or URL.
        vectors: float32[Q, E], of length 1.
        start_s, end_s: float64[Q].
        rows: int64[r], clips of the file that are the query itself, or overlap with it in the same video.
    """

    name: str
    vectors: NDArray[np.float32]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    rows: NDArray[np.int64]


def find_query(like: str, index: ClipIndex, run: str | None = None) -> Query:
    """Find the clips that `--like` names: a video id of the file, or else a video file, each with or without a span.

    Args:
        run: the run or checkpoint that made the embeddings; None: where it was then.

    Raises:
        UsageError: there is no such video, its span is invalid, it cannot be decoded, or the run is not there.
    """
    names, span, told = {*index.video_ids, *index.failed}, None, like
    if like not in names and not Path(like).is_file() and (match := SPANNED.fullmatch(like)):
        base = match["name"]
        if base in names or Path(base).is_file() or (is_url(base) and SPAN.fullmatch(match["span"])):
            like, span = base, _span(match["span"], told)
    if like in index.failed:
        raise UsageError(f"--like: {like} has no embeddings: {index.failed[like]}")
    if like in names:
        return _clips_of_file(like, span, index)
    if _is_file(like):
        return _embed(like, span, index, run)
    raise UsageError(f"--like: {told} is neither a video of {index.path} nor a file; {_near(like, index)}")


def _is_file(name: str) -> bool:
    return is_url(name) or Path(name).is_file()


def _near(name: str, index: ClipIndex) -> str:
    ids = index.video_ids
    near = [each for each in ids if name and name in each][:1]
    near = near or difflib.get_close_matches(name, ids[:MOST_COMPARED_IDS], n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"it has {len(ids)} videos, such as {ids[0]}"


def _span(text: str, told: str) -> tuple[float, float]:
    match = SPAN.fullmatch(text)
    if not match:
        raise UsageError(f"--like: {told}: {text!r} is no span of seconds; write it as in clip.mp4@3-5.5")
    start_s, end_s = float(match[1]), float(match[2])
    if start_s >= end_s:
        raise UsageError(f"--like: {told}: the span ends at {end_s:g} s, not after its start at {start_s:g} s")
    return start_s, end_s


def _clips_of_file(video_id: str, span: tuple[float, float] | None, index: ClipIndex) -> Query:
    """The clips of the span are those with their middle in it, or else the one that shares most seconds with it."""
    rows = np.flatnonzero(index.video == index.video_ids.index(video_id))
    start_s, end_s = index.start_s[rows], index.end_s[rows]
    chosen = np.ones(len(rows), bool)
    if span is not None:
        common_s = np.minimum(end_s, span[1]) - np.maximum(start_s, span[0])
        longest_s = float((end_s - start_s).max())
        last_s = float(end_s.max()) + max(longest_s, index.settings["step_s"] or 0)  # the rest is shorter than a clip
        clips = f"its clips are from {start_s.min():.4g} to {end_s.max():.4g} s"
        if common_s.max() <= 0:
            raise UsageError(f"--like: {video_id} has no clip at {span[0]:g}–{span[1]:g} s; {clips}")
        if span[1] > last_s:
            raise UsageError(f"--like: {video_id} ends before {span[1]:g} s; {clips}")
        middle_s = (start_s + end_s) / 2
        chosen = (span[0] <= middle_s) & (middle_s <= span[1])
        if not chosen.any():
            chosen = np.arange(len(rows)) == common_s.argmax()
    start_s, end_s = start_s[chosen], end_s[chosen]
    own = rows[(index.start_s[rows] < end_s.max()) & (index.end_s[rows] > start_s.min())]
    return Query(video_id, index.read(rows[chosen]).vectors, start_s, end_s, own)


def _embed(name: str, span: tuple[float, float] | None, index: ClipIndex, run: str | None) -> Query:
    """Embed the clips of a video file as `embed` does, with the model of the embeddings file."""
    from advise_ray.deploy.embed_file import embed_file
    from advise_ray.deploy.embeddings_file import model_hash
    from advise_ray.deploy.load import load, locate

    run = run or (index.sources["run"] if index.sources else None)
    if run is None:
        raise UsageError(f"--like: {name} is a file, and {index.path} does not say which run made it; add --run")
    try:
        path = locate(run, "--run")
    except UsageError as error:
        reason = f"the run that made {index.path} must embed it; add --run ({error})"
        raise UsageError(f"--like: {name} is a file, and {reason}") from None
    if model_hash(path) != index.settings["model"]:
        raise UsageError(f"--run: {run} is another model than the one that made {index.path}")
    try:
        vectors, start_s, end_s = embed_file(load(path), name, span, index.settings["step_s"])
    except VideoDecodeError as error:
        raise UsageError(f"--like: {error}") from None
    own = np.zeros(len(index), bool)
    if not is_url(name):
        status = Path(name).stat()
        version = version_of(status.st_size, status.st_mtime_ns)
        same = [(each or "").partition(" frames ")[0] == version for each in index.versions]
        own = np.asarray(same)[index.video] & (index.start_s < end_s.max()) & (index.end_s > start_s.min())
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Query(name, vectors, start_s, end_s, np.flatnonzero(own))
