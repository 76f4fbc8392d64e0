"""Groups the clips of videos that are decoded and embedded together. Imports quickly: a task of Ray Data uses it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import Config, played_clip
from advise_ray.video.frames import Wanted, group_of
from advise_ray.video.manifest import Video, Videos, frames_per_video
from advise_ray.video.sampling import span_frames, spans_frames, stride_frames, strides_frames

GROUP_FRAMES = 512
"""Number of decoded frames in one group of the stream and one part file. It limits the memory use."""


def named_groups(
    every: Videos, config: Config, step_s: float | None, most_frames: int
) -> Iterator[tuple[str, list[Wanted]]]:
    """Yield each group and the name of its part file."""
    for group in groups_of(every, config, step_s, most_frames):
        yield part_name([video for _, video, _ in group], np.concatenate([frames for *_, frames in group])), group


def left_groups(
    every: Videos, config: Config, step_s: float | None, most_frames: int, parts: Path
) -> Iterator[pa.Table]:
    """Yield the groups to decode: those without a part file when it is their turn."""
    for name, group in named_groups(every, config, step_s, most_frames):
        if not (parts / name).exists():
            yield group_of(group)


def version_of(
    num_bytes: int | None, modified_ns: int | None, start_frame: int | None = None, end_frame: int | None = None
) -> str:
    """Return a text that differs if a video's file or the frames of its label have changed.

    Where neither the size nor the time of a file is known (some web servers), a change of the file is not noticed.
    """
    frames = "" if start_frame is end_frame is None else f" frames {start_frame or 0}:{end_frame or ''}"
    return f"{num_bytes} bytes {modified_ns} ns{frames}"


def clips_of(video: Video, config: Config, step_s: float | None) -> NDArray[np.int64]:
    """Frame numbers int64[K, T] of a video's clips, from its first frame on.

    A video that is shorter than a clip gives one clip that repeats its last frame.
    """
    clip = played_clip(config)
    stride = max(1.0, stride_frames(clip, video.fps))
    offsets = np.floor(np.arange(clip.num_frames) * stride + 0.5).astype(np.int64)
    length = len(video.frames)
    span = span_frames(clip.num_frames, stride)
    step = span if step_s is None else max(1, round(step_s * video.fps))
    starts = np.arange(0, max(length - span, 0) + 1, step)
    return video.frames[0] + np.minimum(starts[:, None] + offsets, length - 1)


def groups_of(every: Iterable[Video], config: Config, step_s: float | None, most_frames: int) -> Iterator[list[Wanted]]:
    """Group the clips of all videos into groups of up to `most_frames` frames.

    A long video is split over several groups; short videos share one.
    """
    group: list[Wanted] = []
    held = 0
    per_portion = max(1, most_frames // config.data.clip.num_frames)
    for row, video in enumerate(every):
        clips = clips_of(video, config, step_s)
        for portion in np.array_split(clips, math.ceil(len(clips) / per_portion)):
            if held + portion.size > most_frames and group:
                yield group
                group, held = [], 0
            group.append((row, video, portion.ravel()))
            held += portion.size
    if group:
        yield group


def num_groups(manifest: pa.Table, config: Config, step_s: float | None) -> int:
    """About the number of groups of `groups_of`, without making them."""
    clip, fps = played_clip(config), np.asarray(manifest.column("fps"))
    spans = spans_frames(clip.num_frames, np.maximum(1.0, strides_frames(clip, fps)))
    steps = spans if step_s is None else np.maximum(1, np.round(step_s * fps)).astype(np.int64)
    clips = np.maximum(frames_per_video(manifest) - spans, 0) // steps + 1
    return math.ceil(int(clips.sum()) * clip.num_frames / GROUP_FRAMES)


def version(video: Video) -> str:
    """See `embeddings_file.version_of`."""
    return version_of(video.bytes, video.modified_ns, video.start_frame, video.end_frame)


def part_name(videos: Sequence[Video], frames: NDArray[np.int64]) -> str:
    """Name of the part file of a group. The same videos, versions and frames give the same name."""
    versions = [(video.video_id, version(video)) for video in videos]
    digest = hashlib.blake2b(json.dumps([versions, frames.tolist()]).encode(), digest_size=16)
    return f"{digest.hexdigest()}.parquet"
