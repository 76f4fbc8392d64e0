"""Decodes single frames of a video and resizes them. It uses decord if decord reads the file correctly, else PyAV.

`advise_ray.video.probe` finds out which of them to use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from advise_ray.video.readers import DecordVideo, Source, decode_errors, decord_fits, read_pyav, size_bytes_of


def decode(
    source: Source,
    frame_indices: NDArray[np.int64],
    *,
    height_px: int,
    width_px: int,
    decoder: str = "decord",
    stream_index: int = 0,
    rotation_deg: int = 0,
    name: str = "",
) -> NDArray[np.uint8]:
    """Decode frames by their numbers in display order, each frame once, on one thread.

    Args:
        source: A file, or its bytes.
        frame_indices: int64[T], in any order; numbers may repeat.
        decoder, stream_index, rotation_deg: The values that `probe` has found.
        name: Name of the video in error messages.

    Returns:
        uint8[T, height_px, width_px, 3], RGB, upright.

    Raises:
        VideoDecodeError: The file cannot be read, or ends before the last of these frames.
    """
    wanted, places = np.unique(frame_indices, return_inverse=True)
    with decode_errors(source, name):
        size_bytes_of(source)
        if decoder == "decord" and decord_fits(height_px, width_px, rotation_deg):
            frames = DecordVideo(source, height_px, width_px).read(wanted)
        else:
            frames = read_pyav(source, wanted, height_px, width_px, stream_index, rotation_deg)
        return frames if np.array_equal(wanted, frame_indices) else frames[places]  # avoid a copy if possible
