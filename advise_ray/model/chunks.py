"""How many frames an image model computes at once: enough for full speed, and no more, because they need memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

CPU_CHUNK_PX = 2**18
"""Pixels per chunk on a CPU. Small chunks are faster, because their activations stay in the CPU's caches."""
GPU_CHUNKS = (64, 128, 256, 512)
"""Numbers of frames that a GPU tries."""
FIXED_CHUNK = 128
"""Number of frames on a GPU with `data.deterministic`, because results can depend on it."""
SLOWER_FRACTION = 0.03
"""A smaller chunk may be slower by this fraction than the fastest one."""
REPEATS = 3


def choose_chunk(encode: Callable[[torch.Tensor], Any], frames: torch.Tensor) -> int:
    """Measure on the frames' GPU how many frames at once are fast. Takes about a second; compiles if needed.

    Args:
        encode: The image model without chunks, uint8[N, H, W, 3] → anything.
        frames: uint8[N, H, W, 3] of any N. The first frame is repeated for the measurement.
    """
    if torch.are_deterministic_algorithms_enabled():
        return FIXED_CHUNK

    def frame_s(number: int) -> float:
        many = frames[:1].repeat(number, 1, 1, 1)
        encode(many)
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        for _ in range(REPEATS):
            encode(many)
        torch.cuda.synchronize()
        return (time.perf_counter() - started_s) / (REPEATS * number)

    return fast_enough(frame_s)


def fast_enough(frame_s: Callable[[int], float], chunks: tuple[int, ...] = GPU_CHUNKS) -> int:
    """Return the smallest chunk that is about as fast as the fastest.

    Args:
        frame_s: Measures seconds per frame of a chunk. It may raise OutOfMemoryError; larger chunks are not tried then.
        chunks: Numbers of frames, ascending.
    """
    measured: dict[int, float] = {}
    for number in chunks:
        try:
            measured[number] = frame_s(number)
        except torch.OutOfMemoryError:
            break
    limit_s = min(measured.values(), default=0.0) * (1 + SLOWER_FRACTION)
    return next((number for number, seconds in measured.items() if seconds <= limit_s), 1)
