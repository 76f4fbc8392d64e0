"""Decoding: only the frames that are asked for, resized on the way. decord where it reads a file truly, else PyAV.

What PyAV shows of a file's first video stream, turned upright, is the truth; `probe` compares decord with it once.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import decord
import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import VideoDecodeError

decord.logging.set_level(decord.logging.QUIET)
av.logging.set_level(av.logging.PANIC)

Source = Path | bytes
Decoder = Literal["decord", "pyav"]

PROBE_SIZE_PX = (96, 160)
"""Height and width at which the two decoders are compared."""
NARROWEST_DECORD_PX = 160
"""decord takes the padding of narrower rows for a fourth channel (decord2 3.4: width 96 comes out as 96×4)."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file really holds. `width` and `height` are those of the upright picture, `num_frames` what decodes."""

    num_frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    codec: str
    bytes: int
    decoder: Decoder
    stream_index: int
    rotation_deg: int


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
    """Decode frames by their place in display order, each once, on one thread.

    Args:
        frame_indices: int64[T] in any order, repeated or not.
        decoder, stream_index, rotation_deg: as `probe` found them.
        name: what the error calls the video.

    Returns:
        uint8[T, height_px, width_px, 3], RGB, upright.

    Raises:
        VideoDecodeError: the file cannot be read, or not up to the last of these frames.
    """
    wanted, places = np.unique(frame_indices, return_inverse=True)
    turned = rotation_deg % 180 != 0
    height, width = (width_px, height_px) if turned else (height_px, width_px)
    with _errors(_name(source, name)):
        read = _read_decord if decoder == "decord" and width >= NARROWEST_DECORD_PX else _read_pyav
        frames = read(source, wanted, height, width, stream_index)
        return np.rot90(frames, rotation_deg // 90, axes=(1, 2))[places]


def probe(source: Source, name: str = "") -> VideoInfo:
    """Read a file to its end, and find out which decoder reads it truly.

    Raises:
        VideoDecodeError: there is no video in it, or it breaks off.
    """
    name = _name(source, name)
    with _errors(name):
        size_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size_bytes == 0:
            raise VideoDecodeError(name, "empty file")
        with _open(source) as container:
            stream = _video_stream(container, None, name)
            sampled, num_frames, rotation_deg = _read_all(stream, name)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            height, width = stream.height, stream.width
            decoder: Decoder = "decord" if _decord_agrees(source, num_frames, sampled) else "pyav"
            return VideoInfo(
                num_frames=num_frames,
                fps=float(rate),
                width=height if rotation_deg % 180 else width,
                height=width if rotation_deg % 180 else height,
                duration_s=num_frames / float(rate),
                codec=stream.codec_context.name,
                bytes=size_bytes,
                decoder=decoder,
                stream_index=stream.index,
                rotation_deg=rotation_deg,
            )


def _read_all(stream: Any, name: str) -> tuple[dict[int, NDArray[np.uint8]], int, int]:
    """Decode a stream to its end; a few frames of it (at doubling distances, and the last), their number, the turn."""
    sampled: dict[int, NDArray[np.uint8]] = {}
    num_frames, rotation_deg, frame = 0, 0, None
    next_sample = 0
    try:
        for frame in stream.container.decode(stream):
            if frame.is_corrupt:
                raise VideoDecodeError(name, f"damaged: frame {num_frames} does not decode whole")
            if num_frames == next_sample:
                rotation_deg = int(frame.rotation) % 360 if num_frames == 0 else rotation_deg
                sampled[num_frames] = _to_array(frame, *PROBE_SIZE_PX)
                next_sample = max(1, 2 * next_sample)
            num_frames += 1
    except av.error.FFmpegError as error:
        raise VideoDecodeError(name, f"breaks off after {num_frames} frames: {_reason(error)}") from None
    if frame is None:
        raise VideoDecodeError(name, "no frame decodes")
    sampled[num_frames - 1] = _to_array(frame, *PROBE_SIZE_PX)
    return sampled, num_frames, rotation_deg


def _decord_agrees(source: Source, num_frames: int, sampled: dict[int, NDArray[np.uint8]]) -> bool:
    try:
        reader = _decord_reader(source, *PROBE_SIZE_PX)
        if len(reader) != num_frames:
            return False
        frames = reader.get_batch(list(sampled)).asnumpy()
    except (decord.DECORDError, RuntimeError, OSError):
        return False
    truth = np.stack(list(sampled.values()))
    return bool(np.abs(frames.astype(np.int16) - truth).mean((1, 2, 3)).max() < 1)


def _decord_reader(source: Source, height: int, width: int) -> Any:
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    return decord.VideoReader(file, width=width, height=height, num_threads=1)


def _read_decord(
    source: Source, wanted: NDArray[np.int64], height: int, width: int, _stream_index: int
) -> NDArray[np.uint8]:
    frames: NDArray[np.uint8] = _decord_reader(source, height, width).get_batch(wanted).asnumpy()
    return frames


def _read_pyav(
    source: Source, wanted: NDArray[np.int64], height: int, width: int, stream_index: int
) -> NDArray[np.uint8]:
    """From the start to the last wanted frame: seeking by time is not exact in the files that come here."""
    frames = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
    found = 0
    with _open(source) as container:
        stream = _video_stream(container, stream_index, "")
        for index, frame in enumerate(container.decode(stream)):
            if index == wanted[found]:
                frames[found] = _to_array(frame, height, width)
                found += 1
                if found == len(wanted):
                    return frames
    raise VideoDecodeError("", f"ends before frame {wanted[found]}")


def _to_array(frame: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Bicubic, as decord's scaler: their frames then differ by less than one grey level."""
    array: NDArray[np.uint8] = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="BICUBIC"
    ).to_ndarray()
    return array


def _open(source: Source) -> Any:
    return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))


def _video_stream(container: Any, index: int | None, name: str) -> Any:
    """The stream of that index, or the first that is video and no cover picture."""
    streams = [s for s in container.streams.video if index is None or s.index == index]
    streams = [s for s in streams if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoDecodeError(name, "no video stream")
    return streams[0]


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Whatever goes wrong in the libraries becomes a VideoDecodeError that names the video."""
    try:
        yield
    except VideoDecodeError as error:
        raise VideoDecodeError(name, error.reason) from None
    except FileNotFoundError:
        raise VideoDecodeError(name, "no such file") from None
    except (decord.DECORDError, av.error.FFmpegError, OSError, RuntimeError, ValueError, IndexError) as error:
        raise VideoDecodeError(name, _reason(error)) from None


def _reason(error: Exception) -> str:
    """One short line, without addresses of the library's source."""
    if isinstance(error, av.error.FFmpegError):
        return str(error.strerror)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rpartition("] ")[2][:200] if lines else type(error).__name__


def _name(source: Source, name: str) -> str:
    return name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))
