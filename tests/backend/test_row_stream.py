"""Streams of Ray Data that run in the process that uses the results."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import psutil
import pyarrow as pa
import pytest
import ray
import ray.data

from advise_ray.backend import session
from advise_ray.backend.row_stream import Block, stream, stream_from_actor
from tests.runs import eventually

AHEAD = 4


class Rows:
    """Numbers from 0 on. It counts how many have been taken."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[pa.Table]:
        for number in range(self.count):
            self.taken += 1
            yield pa.table({"number": [number]})


class Slow:
    """An actor that takes longer for every third row, so that the results overtake each other."""

    def __call__(self, row: Block) -> Block:
        time.sleep(0.03 if row["number"][0] % 3 == 0 else 0.0)
        return row | {"pid": [os.getpid()]}


def slow(dataset: ray.data.Dataset) -> ray.data.Dataset:
    actors = ray.data.ActorPoolStrategy(size=2)
    return dataset.map_batches(Slow, batch_size=None, compute=actors, num_cpus=0.1)


@pytest.fixture(autouse=True)
def connected(local_ray: None) -> None:
    session.connect()  # a test before these may have ended the Ray that there was


def test_results_come_in_order_and_no_more_rows_are_taken_than_may_be_under_way() -> None:
    rows, numbers = Rows(40), []
    for block in stream(iter(rows), slow, ahead=AHEAD, preserve_order=True):
        numbers.append(int(block["number"][0]))
        assert rows.taken <= len(numbers) + AHEAD + 1  # one more has been taken, but is not under way
        if len(numbers) == 5:
            time.sleep(1.0)  # a worker that is busy
            assert rows.taken <= len(numbers) + AHEAD + 1
    assert numbers == list(range(40))


def test_two_rows_under_way_are_enough() -> None:
    """Ray prefetches results before it gives the first one away."""
    blocks = stream(iter(Rows(6)), slow, ahead=2, prefetch=2, preserve_order=True)
    assert [int(block["number"][0]) for block in blocks] == list(range(6))


def test_a_stream_of_no_rows_ends_at_once() -> None:
    assert list(stream(iter([]), slow, ahead=AHEAD)) == []


def test_a_killed_actor_costs_no_row() -> None:
    numbers = []
    for block in stream(iter(Rows(30)), slow, ahead=AHEAD, preserve_order=True):
        numbers.append(int(block["number"][0]))
        if len(numbers) == 10:
            psutil.Process(int(block["pid"][0])).kill()
    assert numbers == list(range(30))


def test_a_closed_stream_ends_its_actors() -> None:
    blocks = stream(iter(Rows(1000)), slow, ahead=AHEAD)
    pid = int(next(blocks)["pid"][0])
    blocks.close()
    eventually(lambda: not psutil.pid_exists(pid))


def test_a_stream_that_waits_for_its_consumer_uses_hardly_any_cpu() -> None:
    blocks = stream(iter(Rows(1000)), slow, ahead=AHEAD)
    next(blocks)
    time.sleep(1.0)
    before_s = time.process_time()
    threading.Event().wait(2.0)
    assert time.process_time() - before_s < 0.5
    blocks.close()


def test_the_first_error_of_an_actor_is_raised() -> None:
    def fail(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map_batches(lambda row: {"number": row["missing"]}, batch_size=None, num_cpus=0.1)

    with pytest.raises(KeyError, match="missing"):
        next(stream(iter(Rows(3)), fail, ahead=AHEAD))


def test_an_actor_can_run_the_stream_of_a_driver() -> None:
    blocks = list(stream_from_actor(lambda: iter(Rows(20)), slow, ahead=AHEAD))
    assert sorted(int(block["number"][0]) for block in blocks) == list(range(20))
    assert os.getpid() not in {int(block["pid"][0]) for block in blocks}
