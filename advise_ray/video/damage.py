"""Which part of a damaged video can be read: its longest run of whole frames, none of which leans on a lost one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Packet:
    """A coded frame. `time` is when it is shown, in the stream's own unit."""

    time: int | None
    is_key: bool
    is_lost: bool
    """It is damaged, or does not decode."""


@dataclass
class Passage:
    """What reading a stream to its end has shown, packet by packet, in the order of the file."""

    packets: list[Packet] = field(default_factory=list)
    is_whole: dict[int, bool] = field(default_factory=dict)
    """By the time of each frame that came out."""
    num_before_damage: int = 0
    """Frames that came out before the first sign of damage."""

    def longest_run(self, can_begin_later: bool) -> range:
        """Places, in display order, of the longest run of whole frames.

        Args:
            can_begin_later: reading need not begin at the start of the file; otherwise it ends at the first damage.
        """
        first = range(self.num_before_damage)
        times = [packet.time for packet in self.packets if packet.time is not None]
        if not can_begin_later or len(set(times)) != len(self.packets):
            return first
        ordered = sorted(times)
        gaps, lost = _gaps(ordered), self._lost()
        keys = {packet.time for packet in self.packets if packet.is_key}
        best, start, leans = first, 0, False
        for place, time in enumerate(ordered):
            if place in gaps:
                start, leans = place, True
            leans = leans and time not in keys
            if leans or time in lost or not self.is_whole.get(time, False):
                start = place + 1
            if start > 0:
                best = max(best, range(start, place + 1), key=len)
        return best

    def _lost(self) -> set[int | None]:
        """Times of what is lost, and of what may lean on it: all behind it in the file up to the next keyframe, and
        what is behind that and shown before it."""
        lost: set[int | None] = set()
        leans = leant = False
        key_time: int | None = None
        for packet in self.packets:
            if packet.is_key:
                leans, leant, key_time = False, leans, packet.time
            leans = leans or packet.is_lost
            is_leading = key_time is not None and packet.time is not None and packet.time < key_time
            if leans or (leant and is_leading):
                lost.add(packet.time)
        return lost


def _gaps(times: Sequence[int]) -> set[int]:
    """Places before which much more time passes than elsewhere: some packets have gone there without a sign."""
    steps = np.diff(np.asarray(times, dtype=np.int64))
    return set((np.flatnonzero(steps > 3 * np.median(steps)) + 1).tolist()) if len(steps) else set()
