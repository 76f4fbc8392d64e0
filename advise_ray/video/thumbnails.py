"""Decodes small pictures of a video at given seconds. It needs no manifest, and the times are approximate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode import DecodingError, Source, decode_errors, open_pyav, upright, video_stream

NEAR_S = 2.0
"""A frame that is at most so far ahead is reached by decoding; one that is farther, or behind, by a seek."""


def thumbnails(
    source: Source, times_s: NDArray[np.float64], height_px: int, width_px: int, name: str = ""
) -> NDArray[np.uint8]:
    """Decode the frames at some seconds after the first frame, upright, cropped to fill the size.

    Args:
        source: a file, or its bytes.
        times_s: float64[T], ascending. A time after the end gives the last frame.
        name: name of the video in error messages.

    Returns:
        uint8[T, height_px, width_px, 3], RGB.

    Raises:
        VideoDecodeError: the file cannot be read.
    """
    pictures = np.empty((len(times_s), height_px, width_px, 3), np.uint8)
    with decode_errors(source, name), open_pyav(source) as container:
        stream = video_stream(container)
        frames, frame, shown_s = _frames(container, stream), None, -np.inf
        for place, time_s in enumerate(times_s):
            if not shown_s <= time_s <= max(shown_s, 0) + NEAR_S:
                frames = _frames(container, stream, time_s)
            while frame is None or shown_s < time_s:
                following = next(frames, None)
                if following is None:
                    break
                shown_s, frame = following
            if frame is None:
                raise VideoDecodeError("", f"no frame decodes at {time_s:.4g} s")
            pictures[place] = _filling(frame, height_px, width_px)
    return pictures


def _frames(container: Any, stream: Any, from_s: float | None = None) -> Iterator[tuple[float, Any]]:
    """Yield (seconds, frame) from the present position, or from the last keyframe before a time."""
    origin, unit_s = stream.start_time or 0, float(stream.time_base)
    if from_s is not None:
        with contextlib.suppress(DecodingError):  # some formats cannot seek; decoding then goes on where it is
            container.seek(origin + round(from_s / unit_s), stream=stream)
    frame_s = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    for frame in container.decode(stream):
        time_s = (frame.pts - origin) * unit_s if frame.pts is not None else 0.0
        yield time_s + frame_s / 2, frame


def _filling(frame: Any, height_px: int, width_px: int) -> NDArray[np.uint8]:
    rotation_deg = round(frame.rotation / 90) * 90 % 360
    height, width = (frame.width, frame.height) if rotation_deg % 180 else (frame.height, frame.width)
    scale = max(height_px / height, width_px / width)
    size = max(height_px, round(height * scale)), max(width_px, round(width * scale))
    top, left = (size[0] - height_px) // 2, (size[1] - width_px) // 2
    return upright(frame, *size, rotation_deg)[top : top + height_px, left : left + width_px]
