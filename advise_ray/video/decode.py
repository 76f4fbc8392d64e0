"""Decodes single frames of a video, upright and resized, with decord if decord reads the file correctly, else PyAV.

The frames of PyAV are the reference. decord is faster, but wrong on some files: it counts frames that an edit list
hides, selects another stream, or skips frames when it seeks. `advise_ray.video.probe` detects these files.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import VideoDecodeError


def _import_decord() -> Any:
    """Import decord without CUDA: decord2 3.4 otherwise loads all CUDA libraries that pip has installed."""
    modules: dict[str, Any] = sys.modules
    hidden = modules.get("nvidia")
    modules["nvidia"] = None  # Python then finds no such package
    try:
        import decord
    finally:
        del modules["nvidia"]
        if hidden is not None:
            modules["nvidia"] = hidden
    decord.logging.set_level(decord.logging.QUIET)
    return decord


decord = _import_decord()
av.logging.set_level(av.logging.PANIC)

Source = Path | bytes
DecodingError = av.error.FFmpegError
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Option with which PyAV accepts invalid characters in metadata. PyAV 19 always accepts them."""

_NARROWEST_DECORD_PX = 160
"""Minimum width for decord. At smaller widths it treats padding as a fourth channel (decord2 3.4: width 96)."""

_EXACT_CODECS = {"h264", "hevc", "av1", "vp9"}
_EXACT_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""In these formats each packet is one frame with a timestamp, so that packets tell frame numbers without decoding."""
_REORDERING_FRAMES = 64
"""Maximum distance of a packet from its position in display order, with a margin: the codecs allow 16."""


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


def decord_fits(height_px: int, width_px: int, rotation_deg: int) -> bool:
    """Return whether decord resizes correctly to this size. If it rotates, odd sizes give blurred colours."""
    return width_px >= _NARROWEST_DECORD_PX and (rotation_deg == 0 or height_px % 2 == width_px % 2 == 0)


class DecordVideo:
    """A file that decord reads and resizes; decord always rotates frames upright.

    The file is opened again for each clip, because an open reader uses more and more memory. One thread reads it,
    because several threads gave wrong frames.
    """

    def __init__(self, source: Source, height_px: int, width_px: int) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
        try:
            self._reader = decord.VideoReader(file, width=width_px, height=height_px, num_threads=1)
        except RuntimeError:  # decord's message has no reason
            raise VideoDecodeError("", "decord cannot open it") from None

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the frames with these numbers, in this order: uint8[T, height_px, width_px, 3]."""
        if wanted.max() >= len(self):
            raise VideoDecodeError("", f"ends before frame {wanted.max()}")
        frames: NDArray[np.uint8] = self._reader.get_batch(wanted).asnumpy()
        return frames


def read_pyav(
    source: Source, wanted: NDArray[np.int64], height_px: int, width_px: int, stream_index: int, rotation_deg: int
) -> NDArray[np.uint8]:
    """Return the frames with these ascending numbers, upright: uint8[T, height_px, width_px, 3].

    Decoding starts at the last keyframe before them if the timestamps allow it, otherwise at the start of the file.
    """
    frames = np.empty((len(wanted), height_px, width_px, 3), dtype=np.uint8)
    places = {int(index): place for place, index in enumerate(wanted)}
    positions = _positions(source, stream_index, int(wanted[-1])) if wanted[0] > 0 else {}
    if positions:
        found = 0
        for position, frame in _from_keyframe(source, stream_index, positions, int(wanted[0])):
            if position in places:
                frames[places[position]] = upright(frame, height_px, width_px, rotation_deg)
                found += 1
            if position >= wanted[-1]:
                break
        if found == len(wanted):
            return frames
    for position, frame in _from_start(source, stream_index):
        if position in places:
            frames[places[position]] = upright(frame, height_px, width_px, rotation_deg)
        if position == wanted[-1]:
            return frames
    raise VideoDecodeError("", f"ends before frame {wanted[-1]}")


def _positions(source: Source, stream_index: int, last: int) -> dict[int, int]:
    """Map timestamps to frame numbers up to `last`, from the packets; empty if packets do not tell frame numbers."""
    with open_pyav(source) as container:
        stream = video_stream(container, stream_index)
        if not packets_tell(container, stream):
            return {}
        packets = (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)
        times = [packet.pts for packet in islice(packets, last + 1 + _REORDERING_FRAMES)]
    if None in times or len(set(times)) != len(times):
        return {}
    return {time: position for position, time in enumerate(sorted(times)[: last + 1])}


def packets_tell(container: Any, stream: Any) -> bool:
    """Return whether each packet of a stream is one frame with a timestamp, so that reading can start at a keyframe."""
    return container.format.name in _EXACT_CONTAINERS and codec_name(stream) in _EXACT_CODECS


def _from_keyframe(
    source: Source, stream_index: int, positions: dict[int, int], first: int
) -> Iterator[tuple[int, Any]]:
    """Yield (frame number, frame) from a keyframe at or before `first`; stop at the first frame with unknown number."""
    with open_pyav(source) as container:
        stream = video_stream(container, stream_index)
        container.seek(next(time for time, position in positions.items() if position == first), stream=stream)
        for frame in container.decode(stream):
            if frame.pts not in positions or frame.is_corrupt:
                return
            yield positions[frame.pts], frame


def _from_start(source: Source, stream_index: int) -> Iterator[tuple[int, Any]]:
    with open_pyav(source) as container:
        yield from enumerate(container.decode(video_stream(container, stream_index)))


def open_pyav(source: Source) -> Any:
    """Open a file with PyAV. Invalid characters in its metadata are no error.

    Bytes can come from an unknown client. They may name no other files, as a playlist does, and open no connections.
    """
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    options = {"protocol_whitelist": "none"} if isinstance(source, bytes) else {}
    try:
        return av.open(file, options=options, **_LENIENT)
    except av.error.InvalidDataError as error:
        reason = f"not a video file, or an incomplete one ({_reason(error)})"
        raise VideoDecodeError("", reason, detail=str(error)) from None


def video_stream(container: Any, index: int | None = None) -> Any:
    """Return the stream with this index, or the first video stream that is not a cover picture. Uses one thread."""
    for stream in container.streams.video:
        if index in (None, stream.index) and not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise VideoDecodeError("", "there is no decoder for its codec")
            stream.codec_context.thread_count = 1
            return stream
    raise VideoDecodeError("", "no video stream")


def codec_name(stream: Any) -> str:
    """Return the name of the codec, not of its decoder: `av1`, not `libdav1d`."""
    return str(stream.codec_context.codec.canonical_name)


def upright(frame: Any, height_px: int, width_px: int, rotation_deg: int) -> NDArray[np.uint8]:
    """Rotate a frame by `rotation_deg` counterclockwise and resize it: uint8[height_px, width_px, 3].

    It resizes with bicubic interpolation, as decord does; their frames then differ by less than one grey level.
    """
    height, width = (width_px, height_px) if rotation_deg % 180 else (height_px, width_px)
    # PyAV 19 keeps a scaler for each thread. If the scaler has threads itself, a fork (`ray.init`) can wait forever.
    image = frame.reformat(width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    return np.rot90(image, rotation_deg // 90)


def size_bytes_of(source: Source) -> int:
    """Return the size of a file; raise a clear error if it is missing or empty, independent of the library."""
    size_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size_bytes == 0:
        raise VideoDecodeError("", "empty file")
    return size_bytes


@contextmanager
def decode_errors(source: Source, name: str) -> Iterator[None]:
    """Convert every exception of the libraries to a VideoDecodeError with the name of the video, or else its path.

    Errors that another video would meet too pass as they are: of the installation, and of a machine without memory or
    file descriptors. FFmpeg's own "Cannot allocate memory" is converted, because it comes from a damaged file.
    """
    name = name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))
    try:
        yield
    except VideoDecodeError as error:
        raise VideoDecodeError(name, error.reason, error.lasting, error.detail, error.part) from None
    except FileNotFoundError:
        raise VideoDecodeError(name, "no such file", lasting=False) from None
    except Exception as error:
        is_of_file = isinstance(error, av.error.FFmpegError)
        if isinstance(error, (ImportError, NameError)) or (isinstance(error, MemoryError) and not is_of_file):
            raise
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        # An OSError (permissions, a network drive that is not mounted) may not happen the next time.
        detail = f"{type(error).__name__}: {error}"[:1000]
        if isinstance(error, (TypeError, AttributeError, LookupError, AssertionError)) and not is_of_file:
            reason = f"a fault of advise-ray, please report it: {detail[:200]}"
            raise VideoDecodeError(name, reason, lasting=False, detail=detail) from error
        raise VideoDecodeError(name, _reason(error), not isinstance(error, OSError), detail) from error


def _reason(error: Exception) -> str:
    """Return one short line, without paths and without locations in the library's source."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rpartition("] ")[2][:200] if lines else type(error).__name__
