"""Playback-rate sampling: chooses the frames of a clip from seeded random numbers. It never opens a video.

Clips of T = 4 frames at stride 1, sampled from a video of 12 frames:

    rate 1   ....ffff....          consecutive frames
    rate 2   ..f.f.f.f...          every second frame: the same motion, twice as fast
    rate 4   needs 13 frames: `fit` does not sample it, `hold` repeats the last frame, `wrap` continues at the start
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advise_ray.config import ClipConfig

LEAST_STRIDE = 0.95
"""Strides from this value on are rounded up to 1, so that a video with 29.97 frames/s counts as one with 30."""
DEFAULT_FPS = 30.0
"""Frame rate that is assumed if it is unknown. It matters only with `sample_fps`."""


@dataclass(frozen=True)
class Clip:
    """The frames of one clip.

    Attributes:
        frame_indices: int64[T], frame numbers in display order.
        rate_index: Index of the clip's playback rate in `ClipConfig.rates`; it is the class of the clip in PRP.
    """

    frame_indices: NDArray[np.int64]
    rate_index: int


def keyed_rng(*key: int | str) -> np.random.Generator:
    """Return a random generator seeded only by `key`: it gives equal numbers on any machine and in any call order."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def span_frames(num_frames: int, stride: float) -> int:
    """Return the number of source frames from the first to the last frame of a clip, including both."""
    return int(np.floor((num_frames - 1) * stride + 0.5)) + 1


def stride_frames(clip: ClipConfig, fps: float) -> float:
    """Return the distance between two frames of a clip at rate 1, in source frames, for a video with `fps`."""
    return fps / clip.sample_fps if clip.sample_fps is not None else float(clip.frame_stride or 1)


def spans_frames(num_frames: int, strides: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return `span_frames` for each of n strides, int64[n]."""
    return np.floor((num_frames - 1) * strides + 0.5).astype(np.int64) + 1


def strides_frames(clip: ClipConfig, fps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `stride_frames` for n videos, float64[n]."""
    return fps / clip.sample_fps if clip.sample_fps is not None else np.full(len(fps), float(clip.frame_stride or 1))


def longest_span_frames(clip: ClipConfig, fps: float = DEFAULT_FPS) -> int:
    """Return the number of source frames that a clip needs at the fastest rate and the largest jitter."""
    return span_frames(clip.num_frames, stride_frames(clip, fps) * clip.rates[-1] * (1 + clip.rate_jitter))


def fits_every_rate(num_source_frames: int, clip: ClipConfig, fps: float) -> bool:
    """Return whether a video can be used for validation, that is, only its motion tells the rates apart.

    It must be long enough for the fastest rate, and have enough frames per second for the slowest rate.
    """
    return bool(which_fit_every_rate(np.asarray([num_source_frames], np.int64), clip, np.asarray([fps]))[0])


def which_fit_every_rate(
    num_source_frames: NDArray[np.int64], clip: ClipConfig, fps: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return `fits_every_rate` of n videos at once, bool[n]."""
    strides = strides_frames(clip, fps)
    fastest = strides * clip.rates[-1] * (1 + clip.rate_jitter)
    long_enough = num_source_frames >= spans_frames(clip.num_frames, fastest)
    return long_enough & (strides * clip.rates[0] >= LEAST_STRIDE)


def which_play_at_two_rates(
    num_source_frames: NDArray[np.int64], clip: ClipConfig, fps: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return for which of n videos training can sample two rates or more, at the smallest jitter, bool[n]."""
    strides, none = strides_frames(clip, fps), np.zeros(len(fps), dtype=np.int64)
    slowest = sum((strides * rate < LEAST_STRIDE for rate in clip.rates[:-1]), none)
    if clip.short_video != "fit":
        return len(clip.rates) - slowest > 1
    jittered = (np.maximum(1.0, strides * rate * (1 - clip.rate_jitter)) for rate in clip.rates)
    fitting = sum((spans_frames(clip.num_frames, each) <= num_source_frames for each in jittered), none)
    return fitting - slowest > 1


def plan_clips(
    num_source_frames: int, clip: ClipConfig, rng: np.random.Generator, fps: float = DEFAULT_FPS
) -> list[Clip]:
    """Sample the `clips_per_video` training clips of a video under the `short_video` policy.

    Args:
        num_source_frames: Number of frames that decode, at least 1.
        rng: Generator with the key (seed, epoch, video), see `keyed_rng`. All clips use it in turn.
        fps: Frame rate of the video; only used with `sample_fps`.
    """
    return [_draw(num_source_frames, clip, rng, fps) for _ in range(clip.clips_per_video)]


def plan_val_clips(
    num_source_frames: int,
    clip: ClipConfig,
    clips_per_rate: int,
    rng: np.random.Generator,
    fps: float = DEFAULT_FPS,
) -> list[Clip]:
    """Sample `clips_per_rate` clips at every rate that the `short_video` policy allows, slowest rate first.

    For validation videos these are all rates, because `fits_every_rate` is true for them.
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
    """Return evenly spaced clips at rate 1 from the whole video, int64[num_clips, T]. One clip is from the middle.

    If the video is too short for one clip, it wraps with `short_video: wrap`; otherwise the last frame repeats.
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
    """Return the stride of a clip at each rate, in source frames, with one random jitter.

    A stride is never below 1, because the model could recognize the slowest rate by repeated frames.
    """
    jitter = 1 + rng.uniform(-clip.rate_jitter, clip.rate_jitter)
    return np.maximum(1.0, stride_frames(clip, fps) * np.asarray(clip.rates) * jitter)


def _draw(num_source_frames: int, clip: ClipConfig, rng: np.random.Generator, fps: float) -> Clip:
    strides = _strides(clip, rng, fps)
    playable = _playable(num_source_frames, clip, strides, fps)
    rate_index = playable.start + int(rng.integers(len(playable)))
    return _place(num_source_frames, clip, rate_index, strides[rate_index], rng)


def _playable(num_source_frames: int, clip: ClipConfig, strides: NDArray[np.float64], fps: float) -> range:
    """Return the range of the rates that the policy allows; it has at least one rate."""
    # A file cannot play slower than stride 1: such a clip would look like one of another rate.
    slowest = sum(stride_frames(clip, fps) * rate < LEAST_STRIDE for rate in clip.rates[:-1])
    if clip.short_video != "fit":
        return range(slowest, len(strides))
    fitting = sum(span_frames(clip.num_frames, stride) <= num_source_frames for stride in strides)
    return range(slowest, max(slowest + 1, fitting))


def _place(num_source_frames: int, clip: ClipConfig, rate_index: int, stride: float, rng: np.random.Generator) -> Clip:
    """Place a clip with this stride at a random position in the video."""
    offsets = np.floor(np.arange(clip.num_frames) * stride + 0.5).astype(np.int64)
    room = num_source_frames - int(offsets[-1])
    if room > 0:
        indices = offsets + rng.integers(room)
    elif clip.short_video == "wrap":
        indices = (offsets + rng.integers(num_source_frames)) % num_source_frames
    else:
        indices = np.minimum(offsets, num_source_frames - 1)
    return Clip(indices, rate_index)
