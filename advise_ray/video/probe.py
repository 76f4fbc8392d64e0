"""Reads a file to its end: what it is, whether it is damaged, and whether decord reads it correctly.

The reference is what PyAV reads from the first video stream, rotated upright. `probe` compares decord with it once.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, BinaryIO, Literal

import av
import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import VideoDecodeError
from advise_ray.video.damage import Packet, Passage
from advise_ray.video.decode import (
    DecodingError,
    DecordVideo,
    Source,
    codec_name,
    decode_errors,
    open_pyav,
    packets_tell,
    read_pyav,
    size_bytes_of,
    upright,
    video_stream,
)

PROBE_SIZE_PX = (96, 160)
"""Height and width of the frames with which `probe` compares the two decoders."""
FEWEST_READABLE = 8
"""Minimum number of consecutive readable frames for which a damaged file is kept."""


@dataclass(frozen=True)
class Limits:
    """Limits for a file. A file above them is rejected, if possible by its header, before it uses much memory.

    `max_pixels` is width × height of a frame. The default is the maximum of H.264's levels.
    """

    max_pixels: int = 8192 * 4320
    max_duration_s: float = 24 * 3600.0
    max_frames: int = 2**23

    def refusal(self, width: int, height: int, duration_s: float) -> str | None:
        """Return which limit the file exceeds, or None."""
        if width * height > self.max_pixels:
            return f"{width}×{height} is more than the {self.max_pixels} pixels allowed"
        if duration_s > self.max_duration_s:
            return f"{duration_s:.0f} s is more than the {self.max_duration_s:.0f} s allowed"
        return None


LIMITS = Limits()


@dataclass(frozen=True)
class VideoInfo:
    """The measured properties of a file. `width` and `height` are those of the upright frame.

    `num_frames` is the number of frames that decode. `rotation_deg` is the counterclockwise rotation (0, 90, 180 or
    270) that makes the coded frame upright. In a damaged file, the frames from `readable_start` up to, but not
    including, `readable_end` are undamaged.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    codec: str
    bytes: int
    decoder: Literal["decord", "pyav"]
    stream_index: int
    rotation_deg: int
    readable_start: int | None = None
    readable_end: int | None = None


def probe(source: Source, name: str = "", limits: Limits = LIMITS) -> VideoInfo:
    """Read a file to its end, and find out whether decord reads it correctly.

    Raises:
        VideoDecodeError: The file has no video, is incomplete or damaged, or exceeds a limit. For a damaged file, its
            `part` is the `VideoInfo` of the readable part.
    """
    with decode_errors(source, name):
        size_bytes = size_bytes_of(source)
        with open_pyav(source) as container:
            stream = video_stream(container)
            coded, duration_s = stream.codec_context, float((container.duration or 0) / av.time_base)
            if too_much := limits.refusal(coded.width, coded.height, duration_s):  # by its header
                raise VideoDecodeError("", too_much, lasting=False)
            seen = _read_through(container, stream, limits.max_frames)
            can_begin_later = packets_tell(container, stream)
            damage = _damage(seen, stream.frames, _is_truncated(source, size_bytes))
            fps = float(stream.average_rate or stream.guessed_rate or Fraction(25))
            info = VideoInfo(
                num_frames=seen.num_frames,
                fps=fps,
                width=seen.width,
                height=seen.height,
                duration_s=seen.num_frames / fps,
                codec=codec_name(stream),
                bytes=size_bytes,
                decoder="decord" if not damage and _decord_agrees(source, seen) else "pyav",
                stream_index=stream.index,
                rotation_deg=seen.rotation_deg,
            )
        if damage:
            frames = seen.passage.longest_run(can_begin_later)
            raise VideoDecodeError("", damage, part=_readable_part(source, info, frames))
        return info


@dataclass
class _Seen:
    """What PyAV reads from a stream: counts, the frame size, and sample frames (0, 1, 2, 4, 8, … and the last)."""

    num_packets: int = 0
    num_frames: int = 0
    num_damaged: int = 0
    partial_packet: bool = False
    height: int = 0
    width: int = 0
    rotation_deg: int = 0
    samples: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    passage: Passage = field(default_factory=Passage)

    @property
    def is_damaged(self) -> bool:
        return self.partial_packet or self.num_damaged > 0


def _read_through(container: Any, stream: Any, max_frames: int) -> _Seen:
    """Read a stream to its end, also after errors, so that the message can say how many frames decode."""
    seen = _Seen()
    frame = None
    for packet in container.demux(stream):
        if packet.has_sidedata("encryption_info"):
            raise VideoDecodeError("", "encrypted")
        seen.num_packets += packet.size > 0
        seen.partial_packet |= packet.is_corrupt
        try:
            frames, is_lost = packet.decode(), packet.is_corrupt
        except DecodingError:
            frames, is_lost = [], True
            seen.num_damaged += 1
        if packet.size and not packet.is_discard:
            seen.passage.packets.append(Packet(packet.pts, packet.is_keyframe, is_lost))
        for frame in frames:
            if seen.num_frames == 0:
                seen.rotation_deg = round(frame.rotation / 90) * 90 % 360
                size = (frame.height, frame.width)
                seen.height, seen.width = size[::-1] if seen.rotation_deg % 180 else size
            if seen.num_frames & (seen.num_frames - 1) == 0:  # 0, 1, 2, 4, 8, …
                seen.samples[seen.num_frames] = upright(frame, *PROBE_SIZE_PX, seen.rotation_deg)
            seen.num_damaged += frame.is_corrupt
            seen.num_frames += 1
            seen.passage.is_whole[frame.pts] = not frame.is_corrupt
            seen.passage.num_before_damage += not seen.is_damaged
            if seen.num_frames > max_frames:
                raise VideoDecodeError("", f"has more than the {max_frames} frames allowed", lasting=False)
    if frame is not None:
        seen.samples[seen.num_frames - 1] = upright(frame, *PROBE_SIZE_PX, seen.rotation_deg)
    return seen


def _damage(seen: _Seen, num_frames_told: int, is_truncated: bool) -> str | None:
    """Return a phrase that says what a damaged file has lost, or None if the file is complete."""
    if seen.num_packets == 0:
        raise VideoDecodeError("", "the video stream is empty")
    if is_truncated or seen.is_damaged or seen.num_frames == 0:
        whole = min(seen.num_frames, seen.num_packets - seen.num_damaged)
        num_expected = max(num_frames_told, seen.num_packets)
        kind = "truncated" if is_truncated or seen.partial_packet else "damaged"
        return f"{kind}: {f'{whole} of {num_expected}' if num_expected > whole else whole} frames decode"
    return None


def _readable_part(source: Source, info: VideoInfo, frames: range) -> VideoInfo | None:
    """Return the info with the range of readable frames, or None if they are too few or do not decode on their own."""
    if len(frames) < FEWEST_READABLE:
        return None
    wanted = np.unique(np.linspace(frames[0], frames[-1], num=5).astype(np.int64))
    try:
        read_pyav(source, wanted, *PROBE_SIZE_PX, info.stream_index, info.rotation_deg)
    except (VideoDecodeError, DecodingError):
        return None
    num_frames = max(info.num_frames, frames.stop)
    duration_s = len(frames) / info.fps
    readable = replace(info, readable_start=frames.start, readable_end=frames.stop)
    return replace(readable, num_frames=num_frames, duration_s=duration_s)


def _decord_agrees(source: Source, seen: _Seen) -> bool:
    """Return whether decord gives the same number of frames and the same sample frames as PyAV.

    Late frames come first, because many files give wrong frames only after a seek.
    """
    places = np.asarray(sorted(seen.samples), np.int64)
    places = np.concatenate([places[-2:], places[:-2]])
    try:
        video = DecordVideo(source, *PROBE_SIZE_PX)
        if len(video) != seen.num_frames:
            return False
        frames = video.read(places)
    except Exception:  # decord failed on a file that PyAV has just read
        return False
    truth = np.stack([seen.samples[int(place)] for place in places])
    return bool(np.abs(frames.astype(np.int16) - truth).mean((1, 2, 3)).max() < 1)


def _is_truncated(source: Source, size_bytes: int) -> bool:
    """Return whether the container declares more bytes than the file has, in MP4's media data or Matroska's segment.

    The libraries read such a file to its end, and report no error if it ends between two frames.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        head = file.read(128)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
            return _is_truncated_mp4(file, size_bytes)
        segment = head.find(b"\x18\x53\x80\x67") + 4
        if not head.startswith(b"\x1a\x45\xdf\xa3") or segment < 4:
            return False
        length = 9 - head[segment].bit_length()  # the number of leading zero bits gives the length in bytes
        most = (1 << 7 * length) - 1  # all ones: the writer did not know the size
        declared = int.from_bytes(head[segment : segment + length], "big") & most
        return declared != most and segment + length + declared > size_bytes


def _is_truncated_mp4(file: BinaryIO, size_bytes: int) -> bool:
    start = 0
    while start + 8 <= size_bytes:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: the part ends with the file
            return False
        start += length
        if head[4:8] == b"mdat" and start > size_bytes:
            return True
    return False
