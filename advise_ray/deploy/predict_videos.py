"""`predict`: the most probable classes, or playback rates, of videos.

A few videos are decoded and classified one after the other without Ray, which would take longer to start. More videos
run on Ray Data, on all GPUs or nodes, as in `evaluate`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.config import Config, played_clip
from advise_ray.deploy.load import VideoModel, default_crops, load, locate
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.evaluation.encode_clips import EncodeClips, SpreadClips, encode_video
from advise_ray.evaluation.metrics import softmax
from advise_ray.storage import remote
from advise_ray.training import checkpoint
from advise_ray.video.annotations import read_folder, root_and_file
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.frames import group_of
from advise_ray.video.manifest import Video
from advise_ray.video.probe import LIMITS
from advise_ray.video.sampling import span_frames, stride_frames

log = logging.getLogger("advise_ray")
OnProgress = Callable[[int, int], None]

NUM_CLIPS = 10
"""Clips of each video, evenly spaced: as many as `evaluate` takes."""
FEW = 32
"""Largest number of videos that are classified without Ray."""

Score = TypedDict("Score", {"class": str, "score": float})
"""A class, or a playback rate such as `×2`, and its probability."""


class VideoPrediction(TypedDict):
    """The prediction for one video.

    Attributes:
        path: the path or URL, as it was given; for a folder, the path of the video that begins with the folder's.
        predictions: the most probable classes, the best first; empty if the video cannot be classified.
        note: what to know about the clips of the video, or None.
        error: why the video cannot be classified, or None.
    """

    path: str
    predictions: list[Score]
    note: str | None
    error: str | None


class PredictResult(TypedDict):
    """What `predict` returns.

    Attributes:
        checkpoint: path of the model.
        task: `action`, or `prp` for playback rates.
        val_top1: accuracy of the model in the validation of its run, or None.
        chance: accuracy of a guess.
        failed_videos: number of videos with an error.
        videos: one entry for each video, in the order in which they were given; those of a folder by their path.
    """

    checkpoint: str
    task: str
    val_top1: float | None
    chance: float
    num_clips: int
    num_crops: int
    failed_videos: int
    videos: list[VideoPrediction]


@dataclass(frozen=True)
class _Outcome:
    """Number of the video; and its scores float64[classes] and note, or why it failed."""

    index: int
    scores: NDArray[np.float64] | None = None
    note: str | None = None
    error: str | None = None


def predict(
    source: str,
    given: Sequence[str],
    *,
    top_k: int = 3,
    on_progress: OnProgress = lambda done, total: None,
) -> PredictResult:
    """Classify videos: average the probabilities over evenly spaced clips (and crops), as `evaluate` does.

    Args:
        source: see `deploy.load.load`.
        given: paths and URLs of videos and folders.

    Raises:
        UsageError, ConfigError: the model cannot be loaded, a path does not exist, or is not a video.
    """
    files = list_videos(given)
    path = locate(source, "CHECKPOINT_OR_RUN")
    is_few = len(files) <= FEW
    model = load(path, device="cuda" if is_few and torch.cuda.is_available() else "cpu")
    rows: dict[int, VideoPrediction] = {}
    names, locations = list(files.values()), list(files)
    for outcome in (_one_by_one if is_few else _on_ray)(model, locations):
        rows[outcome.index] = {
            "path": names[outcome.index],
            "predictions": [] if outcome.scores is None else _best(model.classes, outcome.scores, top_k),
            "note": outcome.note,
            "error": outcome.error,
        }
        on_progress(len(rows), len(files))
    return {
        "checkpoint": str(path),
        "task": model.config.task,
        "val_top1": checkpoint.read_state(path).metrics.get("val/top1"),
        "chance": 1 / len(model.classes),
        "num_clips": NUM_CLIPS,
        "num_crops": default_crops(model.config),
        "failed_videos": sum(row["error"] is not None for row in rows.values()),
        "videos": [rows[index] for index in range(len(files))],
    }


def list_videos(given: Sequence[str]) -> dict[str, str]:
    """Return the absolute path or the URL of each video, with its name for the user.

    Raises:
        UsageError: a path does not exist, or is neither a video nor a folder with videos.
    """
    files: dict[str, str] = {}
    for each in given:
        if not each:
            raise UsageError("CLIP: the path is empty; name a video or a folder")
        try:
            location = remote.local_or_url(each)
            listing, (root, only) = read_folder(location), root_and_file(location)
        except UsageError as error:
            problem, _, _ = str(error).removeprefix("--videos: ").partition(" (use ")  # an option of other commands
            raise UsageError(problem) from None
        for name, reason in list(listing.skipped.items())[:1]:
            log.warning("note: skipped %d files and folders, such as %s: %s", len(listing.skipped), name, reason)
        for video in listing.found:
            files.setdefault(remote.join(root, video.path), each if only else remote.join(each, video.path))
    return files


def _best(classes: Sequence[str], scores: NDArray[np.float64], top_k: int) -> list[Score]:
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return [{"class": classes[index], "score": float(scores[index])} for index in order]


def _one_by_one(model: VideoModel, locations: Sequence[str]) -> Iterator[_Outcome]:
    with DecodeProcess(model.config.data.decode_timeout_s) as decoder:
        for index, location in enumerate(locations):
            try:
                info, frames, clips = model.read(decoder, location, NUM_CLIPS)
            except VideoDecodeError as error:
                yield _Outcome(index, error=" ".join(error.reason.split()))
                continue
            yield _Outcome(index, model.scores(frames, clips), _note(info.num_frames, info.fps, model.config))


def _on_ray(model: VideoModel, locations: Sequence[str]) -> Iterator[_Outcome]:
    from advise_ray.backend.frame_encoder import encode_groups  # these import Ray, which takes seconds
    from advise_ray.dataset.probing import Listed, probe_all

    config = model.config
    listed = [
        Listed(video_id=str(index), path=location, bytes=None, modified_ns=None)
        for index, location in enumerate(locations)
    ]
    groups, notes, clips_of = [], {}, SpreadClips(config, NUM_CLIPS)
    limits = replace(LIMITS, max_pixels=config.data.max_pixels)
    for row in probe_all(listed, config.data.decode_timeout_s, limits):
        index = int(row["video_id"])
        if row["reason"] is not None:
            yield _Outcome(index, error=" ".join(row["reason"].split()))
            continue
        facts: dict[str, Any] = {name: row.get(name) for name in Video.__dataclass_fields__}
        video = Video(**facts)
        groups.append(group_of([(index, video, np.unique(clips_of(video)))]))
        notes[index] = _note(video.num_frames, video.fps, config)
    function = partial(encode_video, EncodeClips(config, "logits", default_crops(config)), clips_of)
    if not groups:
        return
    for block in encode_groups(lambda: groups, function, config, model, len(model.classes), everywhere=True):
        index, failure = int(block["rows"][0][0]), str(block["failures"][0])
        if failure:
            yield _Outcome(index, error=failure)
        else:
            yield _Outcome(index, softmax(np.asarray(block["values"][0])).mean(axis=(0, 1)), notes[index])


def _note(num_frames: int, fps: float, config: Config) -> str | None:
    """Tell that a video is shorter than a clip, and what its clips show then."""
    clip = played_clip(config)
    span = span_frames(clip.num_frames, max(1.0, stride_frames(clip, fps)))
    if num_frames >= span:
        return None
    rest = "starts over" if clip.short_video == "wrap" else "repeats its last frame"
    return f"{num_frames} frames are less than a clip of {span}, which {rest}"
