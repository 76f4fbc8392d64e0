"""What keeps a lazy generator a bounded number of items ahead of who takes what becomes of them.

Left to itself, Ray Data (2.60) decodes until the object store is full, gigabytes ahead, and from there on its
scheduling loop spins at half a core: held-back outputs count as ready, so it never waits (`process_completed_tasks`).

Light to import: the actor is a process of its own, and each start waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Item = TypeVar("Item")


class Pace:
    """An actor that keeps a generator from running away: the generator waits for it, its consumers advance it."""

    def __init__(self) -> None:
        self.taken = 0
        self.changed = asyncio.Condition()

    async def advance(self, taken: int) -> None:
        """So many items have been taken by a consumer."""
        async with self.changed:
            self.taken = max(self.taken, taken)
            self.changed.notify_all()

    async def wait_for(self, taken: int) -> int:
        """Return the items taken, once they are at least so many."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.taken >= taken)
            return self.taken


def start_pace(name: str | None = None) -> Any:
    """A handle of the actor, on the node of who calls: no other node's death takes it away."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Pace).options(name=name, num_cpus=0, scheduling_strategy=here).remote()


def paced(items: Iterable[Item], ahead: int, pace: Any) -> Iterator[Item]:
    """The items, at most `ahead` of them before those that `pace`, a handle of the actor, knows to be taken."""
    taken = 0
    for count, item in enumerate(items):
        if count - taken >= ahead:
            taken = ray.get(pace.wait_for.remote(count - ahead + 1))
        yield item
