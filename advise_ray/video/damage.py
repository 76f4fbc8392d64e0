"""Finds the readable part of a damaged video: its longest run of undamaged frames that do not depend on lost ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Packet:
    """A coded frame. `time` is its display time in the unit of the stream."""

    time: int | None
    is_key: bool
    is_lost: bool
    """Whether the packet is damaged, or does not decode."""


@dataclass
class Passage:
    """The result of reading a stream to its end: its packets in the order of the file, and its frames."""

    packets: list[Packet] = field(default_factory=list)
    is_whole: dict[int, bool] = field(default_factory=dict)
    """Maps the time of each decoded frame to whether it is undamaged."""
    num_before_damage: int = 0
    """Number of frames that were decoded before the first sign of damage."""

    def longest_run(self, can_begin_later: bool) -> range:
        """Return the frame numbers, in display order, of the longest run of undamaged frames.

        Args:
            can_begin_later: Whether reading can start at a keyframe. If not, the run ends at the first damage.
        """
        first = range(self.num_before_damage)
        times = [packet.time for packet in self.packets if packet.time is not None]
        if not can_begin_later or len(set(times)) != len(self.packets):
            return first
        ordered = sorted(times)
        gaps, lost = _gaps(ordered), self._lost()
        keys = {packet.time for packet in self.packets if packet.is_key}
        best, start, depends = first, 0, False
        for place, time in enumerate(ordered):
            if place in gaps:
                start, depends = place, True
            depends = depends and time not in keys
            if depends or time in lost or not self.is_whole.get(time, False):
                start = place + 1
            if start > 0:
                best = max(best, range(start, place + 1), key=len)
        return best

    def _lost(self) -> set[int | None]:
        """Return the times of lost packets, and of packets that may depend on them.

        These are all packets after a lost one up to the next keyframe, and packets after this keyframe that are
        displayed before it.
        """
        lost: set[int | None] = set()
        depends = depended = False
        key_time: int | None = None
        for packet in self.packets:
            if packet.is_key:
                depends, depended, key_time = False, depends, packet.time
            depends = depends or packet.is_lost
            is_leading = key_time is not None and packet.time is not None and packet.time < key_time
            if depends or (depended and is_leading):
                lost.add(packet.time)
        return lost


def _gaps(times: Sequence[int]) -> set[int]:
    """Return the positions after an unusually long pause, where packets were lost without an error."""
    steps = np.diff(np.asarray(times, dtype=np.int64))
    return set((np.flatnonzero(steps > 3 * np.median(steps)) + 1).tolist()) if len(steps) else set()
