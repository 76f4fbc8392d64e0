"""Playback-rate sampling: which frames make up a clip. Pure arithmetic on seeded draws, no video is touched.

A clip of T = 4 frames at stride 1, drawn from a video of 12 frames:

    rate 1   ....ffff....          one frame after the other
    rate 2   ..f.f.f.f...          every second frame: the same motion, twice as fast
    rate 4   not within 12 frames: `fit` does not draw it, `hold` repeats the last frame, `wrap` starts over
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advise_ray.config import ClipConfig

LEAST_STRIDE = 0.95
"""Source frames a step that can be shown as 1: 29.97 frames/s pass for 30."""
DEFAULT_FPS = 30.0
"""Of videos of which nothing is known; counts only for clips that are sampled by time."""


@dataclass(frozen=True)
class Clip:
    """The frames of one clip.

    Attributes:
        frame_indices: int64[T], positions in the video in display order.
        rate_index: position of the clip's playback rate in `ClipConfig.rates`: its class in PRP.
    """

    frame_indices: NDArray[np.int64]
    rate_index: int


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A generator that depends on `key` alone: the same draws in any process, on any machine, in any order of calls."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def span_frames(num_frames: int, stride: float) -> int:
    """Source frames from the first to the last frame of a clip, both counted."""
    return int(np.floor((num_frames - 1) * stride + 0.5)) + 1


def stride_frames(clip: ClipConfig, fps: float) -> float:
    """Source frames from one frame of a clip to the next at rate 1, in a video of so many frames per second."""
    return fps / clip.sample_fps if clip.sample_fps is not None else float(clip.frame_stride or 1)


def longest_span_frames(clip: ClipConfig, fps: float = DEFAULT_FPS) -> int:
    """Source frames that the fastest clip takes at its fastest jitter."""
    return span_frames(clip.num_frames, stride_frames(clip, fps) * clip.rates[-1] * (1 + clip.rate_jitter))


def fits_every_rate(num_source_frames: int, clip: ClipConfig, fps: float) -> bool:
    """Whether a video can be validated on: nothing but the motion may tell the rates apart.

    It has to be long enough for the fastest rate, and to have frames enough per second for the slowest.
    """
    fast_enough = stride_frames(clip, fps) * clip.rates[0] >= LEAST_STRIDE
    return num_source_frames >= longest_span_frames(clip, fps) and fast_enough


def num_playable(num_source_frames: int, clip: ClipConfig, fps: float) -> int:
    """How many rates training may draw for a video, at the jitter that leaves most."""
    strides = np.maximum(1.0, stride_frames(clip, fps) * np.asarray(clip.rates) * (1 - clip.rate_jitter))
    return len(_playable(num_source_frames, clip, strides, fps))


def plan_clips(
    num_source_frames: int, clip: ClipConfig, rng: np.random.Generator, fps: float = DEFAULT_FPS
) -> list[Clip]:
    """Draw the `clips_per_video` training clips of a video under the `short_video` policy.

    Args:
        num_source_frames: frames that the video really has, at least 1.
        rng: keyed by (seed, epoch, video), see `keyed_rng`; clips are drawn from it one after the other.
        fps: the video's frames per second; only `sample_fps` asks for it.
    """
    return [_draw(num_source_frames, clip, rng, fps) for _ in range(clip.clips_per_video)]


def plan_val_clips(
    num_source_frames: int,
    clip: ClipConfig,
    clips_per_rate: int,
    rng: np.random.Generator,
    fps: float = DEFAULT_FPS,
) -> list[Clip]:
    """Draw `clips_per_rate` clips at every rate that the policy plays a video at, slowest first.

    Where a video `fits_every_rate`, as those of validation do, that is every rate under any policy.
    """
    clips = []
    for rate_index in range(len(clip.rates)):
        for _ in range(clips_per_rate):
            strides = _strides(clip, rng, fps)
            if rate_index in _playable(num_source_frames, clip, strides, fps):
                clips.append(_place(num_source_frames, clip, rate_index, strides[rate_index], rng))
    return clips


def spread_clips(
    num_source_frames: int, clip: ClipConfig, num_clips: int, fps: float = DEFAULT_FPS
) -> NDArray[np.int64]:
    """int64[num_clips, T]: clips at rate 1 from the first to the last frame, evenly; a single one from the middle.

    A video that is too short for one clip wraps where the policy says so, else holds its last frame.
    """
    stride = max(1.0, stride_frames(clip, fps))
    offsets = np.floor(np.arange(clip.num_frames) * stride + 0.5).astype(np.int64)
    room = num_source_frames - int(offsets[-1])
    if room > 0:
        places = np.linspace(0, room - 1, num_clips) if num_clips > 1 else np.asarray([(room - 1) / 2])
        return np.floor(places + 0.5).astype(np.int64)[:, None] + offsets
    if clip.short_video == "wrap":
        offsets = offsets % num_source_frames
    return np.tile(np.minimum(offsets, num_source_frames - 1), (num_clips, 1))


def _strides(clip: ClipConfig, rng: np.random.Generator, fps: float) -> NDArray[np.float64]:
    """Source frames between two frames of the clip, for each rate, under one draw of the jitter.

    Never below 1: a frame shown twice would give the slowest rate away.
    """
    jitter = 1 + rng.uniform(-clip.rate_jitter, clip.rate_jitter)
    return np.maximum(1.0, stride_frames(clip, fps) * np.asarray(clip.rates) * jitter)


def _draw(num_source_frames: int, clip: ClipConfig, rng: np.random.Generator, fps: float) -> Clip:
    strides = _strides(clip, rng, fps)
    playable = _playable(num_source_frames, clip, strides, fps)
    rate_index = playable.start + int(rng.integers(len(playable)))
    return _place(num_source_frames, clip, rate_index, strides[rate_index], rng)


def _playable(num_source_frames: int, clip: ClipConfig, strides: NDArray[np.float64], fps: float) -> range:
    """The rates that the policy draws from; at least one."""
    # Slower than its own frames no file can be shown: its label would be another rate's clip.
    slowest = sum(stride_frames(clip, fps) * rate < LEAST_STRIDE for rate in clip.rates[:-1])
    if clip.short_video != "fit":
        return range(slowest, len(strides))
    fitting = sum(span_frames(clip.num_frames, stride) <= num_source_frames for stride in strides)
    return range(slowest, max(slowest + 1, fitting))


def _place(num_source_frames: int, clip: ClipConfig, rate_index: int, stride: float, rng: np.random.Generator) -> Clip:
    """Put a clip of known stride somewhere into the video."""
    offsets = np.floor(np.arange(clip.num_frames) * stride + 0.5).astype(np.int64)
    room = num_source_frames - int(offsets[-1])
    if room > 0:
        indices = offsets + rng.integers(room)
    elif clip.short_video == "wrap":
        indices = (offsets + rng.integers(num_source_frames)) % num_source_frames
    else:
        indices = np.minimum(offsets, num_source_frames - 1)
    return Clip(indices, rate_index)
