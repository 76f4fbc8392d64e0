"""The readable part of a damaged video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from advise_ray.errors import VideoDecodeError
from advise_ray.video.damage import Packet, Passage
from advise_ray.video.decode import decode
from advise_ray.video.probe import VideoInfo, probe


def passage(packets: str, times: list[int] | None = None, before: int = 0) -> Passage:
    """K a keyframe, p another, x a lost one, X a lost keyframe; in the order of the file."""
    shown_at = times if times is not None else list(range(len(packets)))
    return Passage(
        [Packet(time, kind in "KX", kind in "xX") for kind, time in zip(packets, shown_at, strict=True)],
        {time: True for kind, time in zip(packets, shown_at, strict=True) if kind in "Kp"},
        before,
    )


@pytest.mark.parametrize(
    ("packets", "run"),
    [
        ("KppxpKppp", range(5, 9)),  # what leans on the lost one decodes, and is wrong
        ("KpppppxpKppp", range(6)),
        ("KpXppppKpp", range(7, 10)),
        ("KppxKppxKpppKp", range(8, 14)),
        ("Xppp", range(0)),
    ],
)
def test_the_longest_run_leans_on_nothing_that_is_lost(packets: str, run: range) -> None:
    before = min(packets.find(lost) for lost in "xX" if lost in packets)
    assert passage(packets, before=before).longest_run(can_begin_later=True) == run
    assert passage(packets, before=before).longest_run(can_begin_later=False) == range(before)


def test_frames_that_are_shown_before_a_keyframe_may_lean_on_the_one_before() -> None:
    #                   lost ↓           ↓ shown at 4 and 5, behind the keyframe in the file
    times = [0, 1, 2, 3, 6, 4, 5, 7, 8, 9]
    assert passage("KpxpKppppp", times, before=2).longest_run(can_begin_later=True) == range(6, 10)


def test_what_has_gone_without_a_sign_is_a_gap_in_time() -> None:
    times = [0, 1, 2, 3, 20, 21, 22, 23, 24, 25]
    assert passage("KpppppKppp", times, before=4).longest_run(can_begin_later=True) == range(4)
    assert passage("KpppKppppp", times, before=4).longest_run(can_begin_later=True) == range(4, 10)


def damaged(path: Path, keyframe: int) -> Path:
    """Zeros in place of one of the keyframes."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.is_keyframe][keyframe]
    data = bytearray(path.read_bytes())
    data[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path.write_bytes(data)
    return path


def part_of(path: Path) -> VideoInfo | None:
    with pytest.raises(VideoDecodeError) as caught:
        probe(path)
    return caught.value.part


def test_the_readable_part_shows_the_frames_that_it_says(write_video, shown) -> None:
    path = damaged(write_video(movflags="faststart"), 1)  # that of frame 1; the next one is that of frame 9
    part = part_of(path)
    assert part is not None
    assert (part.readable_start, part.readable_end, part.num_frames, part.decoder) == (9, 30, 30, "pyav")
    assert part.duration_s == pytest.approx(21 / 30)
    frames = decode(path, np.asarray([29, 9, 25]), height_px=240, width_px=320, decoder="pyav")
    assert shown(frames) == [29, 9, 25]


def test_of_a_file_that_breaks_off_the_first_part_can_be_read(write_video, shown) -> None:
    path = write_video(movflags="faststart")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    part = part_of(path)
    assert part is not None
    assert part.readable_start == 0
    assert part.readable_end is not None
    assert 10 <= part.readable_end < 30
    last = part.readable_end - 1
    assert shown(decode(path, np.asarray([0, last]), height_px=240, width_px=320, decoder="pyav")) == [0, last]


def test_a_few_frames_are_not_worth_to_be_kept(write_video) -> None:
    path = write_video(num_frames=8, movflags="faststart")
    assert part_of(damaged(path, 0)) is None
