"""Moves a worker's blocks to its device. On a GPU, each block is copied while the step before it computes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass

import torch

from advise_ray.model.transfer import to_device
from advise_ray.training.clip_block import ClipBlock


@dataclass(frozen=True)
class DeviceBlock:
    """A block on the device of its worker.

    Attributes:
        read: the block as it was read, in main memory.
        pictures: its `frames` or its `features`, see `ClipBlock`.
    """

    read: ClipBlock
    targets: torch.Tensor
    weights: torch.Tensor
    pictures: torch.Tensor
    hidden: torch.Tensor | None


def on_device(block: ClipBlock, device: torch.device) -> DeviceBlock:
    """Copy the arrays of a block to a device, see `to_device`."""
    pictures = block.frames if block.features is None else block.features
    assert pictures is not None
    return DeviceBlock(
        block,
        to_device(block.targets, device),
        to_device(block.weights, device),
        to_device(pictures, device),
        None if block.hidden is None else to_device(block.hidden, device),
    )


class CopyStream:
    """A CUDA stream that copies blocks while another stream computes.

    Attributes:
        idle_s: seconds for which the device had nothing to do between the calls of `asked` and `copy`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.idle_s = 0.0
        self._computed, self._before, self._arrived = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._copied = torch.cuda.Event()

    def asked(self) -> None:
        """Call it when all work of the step before is enqueued, and the next block is needed."""
        self._computed.record(torch.cuda.current_stream(self.device))

    def copy(self, block: ClipBlock) -> DeviceBlock:
        """Begin to copy a block, after the work enqueued so far, because it gets the memory of a block of that work."""
        self._arrived.record(self.stream)
        self._before, self._computed = self._computed, self._before  # `asked` is called again before `finish`
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            copying = on_device(block, self.device)
        self._copied.record(self.stream)
        return copying

    def finish(self) -> None:
        """Wait for the last copy. So the process is never more than one step ahead of the device."""
        self._copied.synchronize()
        self.idle_s += max(0.0, self._before.elapsed_time(self._arrived) / 1000)


class DeviceFeed:
    """Iterates over a worker's blocks on its device, and closes them at the end.

    On a GPU, two blocks are on the device: the one of the present step, and the next one, which is being copied. The
    caller must not keep a block when it asks for the next one. On a CPU the blocks are not copied.

    Attributes:
        wait_s: seconds for which the device had nothing to do, because the next block was not there.
    """

    def __init__(self, blocks: Generator[ClipBlock], device: torch.device, stream: CopyStream | None = None) -> None:
        self.blocks, self.device = blocks, device
        self.stream = CopyStream(device) if stream is None and device.type == "cuda" else stream
        self._waited_s = 0.0

    @property
    def wait_s(self) -> float:
        return self._waited_s if self.stream is None else self.stream.idle_s

    def __iter__(self) -> Generator[DeviceBlock]:
        with contextlib.closing(self.blocks):
            yield from self._direct() if self.stream is None else self._one_ahead(self.stream)

    def _direct(self) -> Generator[DeviceBlock]:
        while True:
            started_s = time.perf_counter()
            block = next(self.blocks, None)
            self._waited_s += time.perf_counter() - started_s
            if block is None:
                return
            yield on_device(block, self.device)

    def _one_ahead(self, stream: CopyStream) -> Generator[DeviceBlock]:
        ready: list[DeviceBlock] = []
        stream.asked()
        for block in self.blocks:
            if ready:
                stream.finish()
            ready.append(stream.copy(block))
            if len(ready) == 2:
                yield ready.pop(0)
            stream.asked()
        if ready:
            stream.finish()
            yield ready.pop()
