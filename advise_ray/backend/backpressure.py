"""Backpressure: keeps a generator at most N items ahead of its consumers.

Without it, Ray Data (2.60) decodes until the object store is full. From then on its scheduling loop busy-waits,
because outputs that it holds back count as ready, so the loop never blocks (`process_completed_tasks`).

This module must import quickly: the actor runs in its own process, and every run waits for that process to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Item = TypeVar("Item")


class Pace:
    """The actor that counts consumed items: the consumers report them, and the generator waits for the count."""

    def __init__(self) -> None:
        self.taken = 0
        self.changed = asyncio.Condition()

    async def advance(self, taken: int) -> None:
        """Record that a consumer has taken this many items in total."""
        async with self.changed:
            self.taken = max(self.taken, taken)
            self.changed.notify_all()

    async def wait_for(self, taken: int) -> int:
        """Wait until at least this many items have been taken. Returns how many have been taken."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.taken >= taken)
            return self.taken


def start_pace(name: str | None = None) -> Any:
    """Start the actor on the caller's node, so that the loss of another node cannot end it. Returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Pace).options(name=name, num_cpus=0, scheduling_strategy=here).remote()


def paced(items: Iterable[Item], ahead: int, pace: Any) -> Iterator[Item]:
    """Yield the items, at most `ahead` more than have been consumed; `pace` (a handle of the actor) knows how many."""
    taken = 0
    for count, item in enumerate(items):
        if count - taken >= ahead:
            taken = ray.get(pace.wait_for.remote(count - ahead + 1))
        yield item
