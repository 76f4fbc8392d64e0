"""The two libraries that read videos, decord and PyAV, behind one call each. What PyAV shows is the truth.

decord is the fast one, and wrong on some files: it counts frames that an edit list hides, picks another stream, seeks
past frames. `advise_ray.video.decode.probe` finds out which files those are.
"""

from __future__ import annotations

import io
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
    """decord2 3.4 loads every CUDA library that pip has installed (0.6 GB, never used here) unless it finds none."""
    modules: dict[str, Any] = sys.modules
    hidden = modules.get("nvidia")
    modules["nvidia"] = None  # to Python: there is no such package
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

_NARROWEST_DECORD_PX = 160
"""decord takes the padding of narrower rows for a fourth channel (decord2 3.4: width 96 comes out as 96×4)."""

_EXACT_CODECS = {"h264", "hevc", "av1", "vp9"}
_EXACT_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""There a packet is a frame and bears its time, so that packets tell which frame is the n-th without decoding."""
_REORDERING_FRAMES = 64
"""No packet comes later than this many after its place in display order: the codecs allow 16."""


def decord_fits(height_px: int, width_px: int, rotation_deg: int) -> bool:
    """Whether decord resizes truly to this size; of a picture on its side it blurs the colours where a side is odd."""
    return width_px >= _NARROWEST_DECORD_PX and (rotation_deg == 0 or height_px % 2 == width_px % 2 == 0)


class DecordVideo:
    """A file as decord reads it, resized and, without being asked, turned upright.

    Opened anew for each clip and read on one thread: kept open it grows, and threads have given it wrong frames.
    """

    def __init__(self, source: Source, height_px: int, width_px: int) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
        try:
            self._reader = decord.VideoReader(file, width=width_px, height=height_px, num_threads=1)
        except RuntimeError:  # that of decord says where the file is, not what is wrong with it
            raise VideoDecodeError("", "decord cannot open it") from None

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames at these positions, in this order: uint8[T, height_px, width_px, 3]."""
        if wanted.max() >= len(self):
            raise VideoDecodeError("", f"ends before frame {wanted.max()}")
        frames: NDArray[np.uint8] = self._reader.get_batch(wanted).asnumpy()
        return frames


def read_pyav(
    source: Source, wanted: NDArray[np.int64], height_px: int, width_px: int, stream_index: int, rotation_deg: int
) -> NDArray[np.uint8]:
    """Frames at these ascending positions: uint8[T, height_px, width_px, 3], upright.

    From the last keyframe before them where the file's timestamps lead there, else from its start.
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
    """Timestamp → position in display order, up to frame `last`, from the packets; empty where they do not tell."""
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
    """Whether each packet of a stream is a frame and bears its time, so that reading can begin at a keyframe."""
    return container.format.name in _EXACT_CONTAINERS and codec_name(stream) in _EXACT_CODECS


def _from_keyframe(
    source: Source, stream_index: int, positions: dict[int, int], first: int
) -> Iterator[tuple[int, Any]]:
    """(position, frame), beginning somewhere before `first`; ends at the first frame that has no known position."""
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
    """An `av` container; strange letters in its tags are no reason to refuse it."""
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    try:
        return av.open(file, metadata_errors="replace")
    except av.error.InvalidDataError as error:
        reason = f"not a video file, or one that lost a part ({_reason(error)})"
        raise VideoDecodeError("", reason, detail=str(error)) from None


def video_stream(container: Any, index: int | None = None) -> Any:
    """The stream of that index, or the first that is video and no cover picture; it decodes on one thread."""
    for stream in container.streams.video:
        if index in (None, stream.index) and not stream.disposition & av.stream.Disposition.attached_pic:
            stream.codec_context.thread_count = 1
            return stream
    raise VideoDecodeError("", "no video stream")


def codec_name(stream: Any) -> str:
    """The format's name, not its decoder's: `av1`, not `libdav1d`."""
    return str(stream.codec_context.codec.canonical_name)


def upright(frame: Any, height_px: int, width_px: int, rotation_deg: int) -> NDArray[np.uint8]:
    """A frame turned by `rotation_deg` counterclockwise and resized: uint8[height_px, width_px, 3].

    Bicubic, as decord's scaler: their frames then differ by less than one grey level.
    """
    height, width = (width_px, height_px) if rotation_deg % 180 else (height_px, width_px)
    image = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.rot90(image, rotation_deg // 90)


@contextmanager
def decode_errors(name: str) -> Iterator[None]:
    """Whatever the libraries raise, and they raise much, becomes a VideoDecodeError that names the video."""
    try:
        yield
    except VideoDecodeError as error:
        raise VideoDecodeError(name, error.reason, error.lasting, error.detail, error.part) from None
    except FileNotFoundError:
        raise VideoDecodeError(name, "no such file", lasting=False) from None
    except Exception as error:
        # What the system refuses (permissions, a network drive that is away) may be there the next time.
        detail = f"{type(error).__name__}: {error}"[:1000]
        raise VideoDecodeError(name, _reason(error), not isinstance(error, OSError), detail) from error


def _reason(error: Exception) -> str:
    """One short line, without paths and without addresses of the library's source."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rpartition("] ")[2][:200] if lines else type(error).__name__
