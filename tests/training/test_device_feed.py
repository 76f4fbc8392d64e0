"""The order in which blocks are read, copied and used, by a stream that only records; a GPU has the same calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator, Iterator

import numpy as np
import pytest
import torch

from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.device_feed import CopyStream, DeviceBlock, DeviceFeed, on_device

CPU = torch.device("cpu")


def block(number: int) -> ClipBlock:
    features = np.full((1, 1, 1, 1, 1), number, dtype=np.float16)
    return ClipBlock(np.asarray([number]), np.ones(1, dtype=np.float32), features=features)


class Recorder(CopyStream):
    def __init__(self, events: list[str]) -> None:
        self.events, self.idle_s = events, 0.0
        self.last = -1
        self.copies: list[weakref.ref[torch.Tensor]] = []

    def asked(self) -> None:
        self.events.append("asked")

    def copy(self, block: ClipBlock) -> DeviceBlock:
        self.last = int(block.targets[0])
        self.events.append(f"copy {self.last}")
        copied = on_device(block, CPU)
        self.copies.append(weakref.ref(copied.pictures))
        return copied

    def finish(self) -> None:
        self.events.append(f"copied {self.last}")


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def read(events: list[str]) -> Generator[ClipBlock]:
    def blocks() -> Iterator[ClipBlock]:
        try:
            for number in range(4):
                events.append(f"read {number}")
                yield block(number)
        finally:
            events.append("closed")

    return blocks()


def test_each_copy_begins_when_the_step_before_last_is_enqueued(events: list[str], read: Generator[ClipBlock]) -> None:
    for moved in DeviceFeed(read, CPU, Recorder(events)):
        assert moved.pictures.item() == moved.read.targets[0]
        events.append(f"step {int(moved.targets)}")
    assert [event for event in events if event != "asked"] == [
        *("read 0", "copy 0"),
        *("read 1", "copied 0", "copy 1", "step 0"),
        *("read 2", "copied 1", "copy 2", "step 1"),
        *("read 3", "copied 2", "copy 3", "step 2"),
        *("closed", "copied 3", "step 3"),
    ]
    assert all(events[at - 1] == "asked" for at, event in enumerate(events) if event.startswith("read"))


def test_two_blocks_are_on_the_device_and_no_more(events: list[str], read: Generator[ClipBlock]) -> None:
    stream = Recorder(events)

    def alive() -> int:
        return sum(copy() is not None for copy in stream.copies)

    gc.disable()  # freed by the last reference, not some time later
    try:
        feed = iter(DeviceFeed(read, CPU, stream))
        for _ in range(3):
            moved = next(feed)
            assert alive() == 2
            del moved
            assert alive() == 1
        next(feed)
        assert alive() == 0
    finally:
        gc.enable()


def test_a_feed_that_is_closed_closes_the_blocks(events: list[str], read: Generator[ClipBlock]) -> None:
    feed = iter(DeviceFeed(read, CPU, Recorder(events)))
    next(feed)
    feed.close()
    assert events[-1] == "closed"


def test_on_a_cpu_nothing_is_copied_or_read_ahead(events: list[str], read: Generator[ClipBlock]) -> None:
    feed = DeviceFeed(read, CPU)
    for number, moved in enumerate(feed):
        assert np.shares_memory(moved.pictures.numpy(), moved.read.features)
        assert events == [f"read {each}" for each in range(number + 1)]
    assert events[-1] == "closed"
    assert 0 < feed.wait_s < 1
