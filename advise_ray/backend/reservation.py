"""Room on a cluster for all processes of a run at once: asked for, waited for, held, and given back.

The room is a placement group with a bundle for each worker and each decode actor. So workers never take the CPUs of the
actors that decode for them, two runs never hold half of what each needs, and an autoscaler sees all that is wanted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from advise_ray.backend import nodes, resource_wait, session
from advise_ray.backend.nodes import View
from advise_ray.backend.resource_wait import Waiting, refuse_longer
from advise_ray.backend.resources import NOTHING_COMES, Growth, Shares, share_cpus
from advise_ray.config import Config, worker_counts
from advise_ray.errors import UsageError

ask_newcomers: Callable[[set[str]], None] | None = None
"""What a job on a cluster asks nodes that have come since it began, before it works there."""
FIRST_WAIT_S, POLL_S = 3.0, 1.0
BROKEN_FOR_S = 15.0
"""How long what a lost node held is given to find another node, before a run starts anew with less."""
MUCH_MORE = 2.0
"""So many times the CPUs of its workers, or of its decode actors, and a run of a range of workers starts anew."""


@dataclass
class Room:
    """The processes of a run, and room for them.

    Attributes:
        shares: as they were planned; then as there is room for.
        config: what they may become, by the cluster as it is; None: nothing else.
        growth: all that the cluster's autoscaler may ever bring.
        group: the placement group that is asked for, or held; nobody's before the first `poll` and after `take`.
        waiting: since when there is no room, and for what.
    """

    shares: Shares
    config: Config | None = None
    decodes: bool = True
    growth: Growth = NOTHING_COMES
    group: PlacementGroup | None = None
    waiting: Waiting | None = None
    more: PlacementGroup | None = field(default=None, repr=False)
    """What a run that goes on would have beside its room."""
    broken_since_s: float | None = field(default=None, repr=False)
    ask: Callable[[set[str]], None] | None = field(default_factory=lambda: ask_newcomers, repr=False)
    """See `ask_newcomers`; its own, since it is sent to other processes."""

    def poll(self) -> bool:
        """Whether the room is there; called again and again until it is.

        First the room is asked for as it was planned, or was before; then as the cluster has it, or may have it.

        Raises:
            ClusterError: a node that has come since the preflight is not as the others are.
        """
        wait_s = POLL_S
        if self.group is None:
            self.release()
            self._ask(self.shares)
            wait_s = FIRST_WAIT_S
        if not self._is_there(wait_s):
            view = nodes.look(self.growth)
            if (wanted := self._chosen(view)) != self.shares:
                self._ask(wanted)
            if not self._is_there(0.0):
                since_s = self.waiting.since_s if self.waiting else time.time() - wait_s
                self.waiting = Waiting(told(self.shares, view), since_s)
                return False
        self.waiting = None
        if self.ask is not None and self.group is not None:
            self.ask({node for node, _ in _places_of(self.group)})
        return True

    def take(self) -> PlacementGroup:
        """The group, which is the caller's from now on."""
        assert self.group is not None
        group, self.group = self.group, None
        return group

    def release(self) -> None:
        """Give back what is held, and ask for nothing."""
        for group in (self.group, self.more):
            if group is not None:
                remove_placement_group(group)
        self.group = self.more = self.broken_since_s = None

    def is_broken(self, group: PlacementGroup) -> bool:
        """Whether a node that a group was on has gone, and the rest has had time to find another."""
        if placement_group_table(group)["state"] == "CREATED":
            self.broken_since_s = None
            return False
        self.broken_since_s = self.broken_since_s or time.time()
        return time.time() - self.broken_since_s > BROKEN_FOR_S

    def could_be_better(self, group: PlacementGroup) -> bool:
        """Whether a run of a range of workers, which has a group, would find room for more; `shares` are then those.

        What nodes would have to come for is asked for.
        """
        if self.config is None:
            return False
        view = nodes.look(self.growth)
        rooms = dict(view.free)
        for each in (group, self.more):
            for node, bundle in _places_of(each) if each is not None else ():
                cpus, gpus = rooms.get(node, (0.0, 0.0))
                rooms[node] = cpus + bundle.get("CPU", 0.0), gpus + bundle.get("GPU", 0.0)
        with contextlib.suppress(UsageError):
            better = share_cpus(self.config, list(rooms.values()), decodes=self.decodes)
            if _is_better(better, self.shares):
                self.shares = better
                return True
            better = share_cpus(self.config, list(rooms.values()), view.growth, decodes=self.decodes)
            self._ask_for_more(better)
        return False

    def _ask_for_more(self, better: Shares) -> None:
        workers = better.num_workers - self.shares.num_workers
        if workers > 0 and self.more is None:
            decoders = max(0, better.num_decode_actors - self.shares.num_decode_actors)
            added = replace(better, num_workers=workers, num_decode_actors=decoders)
            self.more = placement_group(added.bundles, strategy="PACK")

    def _chosen(self, view: View) -> Shares:
        """The shares that there is room for now; else that there will be when nodes have come, else when others have
        gone, else those of before."""
        if self.config is None:
            return self.shares
        free, growth, counts = list(view.free.values()), view.growth, worker_counts(self.config)
        tries = [(free, growth), (list(view.total.values()), growth)]
        if not growth.most or len(counts) > 1:
            tries.insert(0, (free, NOTHING_COMES))
        for there, coming in tries:
            with contextlib.suppress(UsageError):
                return share_cpus(self.config, there, coming, decodes=self.decodes)
        return self.shares

    def _ask(self, shares: Shares) -> None:
        if self.group is not None:
            remove_placement_group(self.group)
        self.shares = shares
        self.group = placement_group(shares.bundles, strategy="PACK")

    def _is_there(self, wait_s: float) -> bool:
        return self.group is not None and self.group.wait(wait_s)


def _is_better(these: Shares, those: Shares) -> bool:
    """Whether it is worth starting anew: for more workers, or as many with much more of one kind of CPUs."""
    if these.num_workers != those.num_workers:
        return these.num_workers > those.num_workers
    decoding = those.num_decode_actors * those.cpus_per_decode_actor
    return these.cpus_per_worker >= MUCH_MORE * those.cpus_per_worker or (
        decoding > 0 and these.num_decode_actors * these.cpus_per_decode_actor >= MUCH_MORE * decoding
    )


def _places_of(group: PlacementGroup) -> Iterator[tuple[str, dict[str, float]]]:
    """The nodes of a group that is there, each with a bundle on it."""
    table = placement_group_table(group)
    if table["state"] == "CREATED":
        for index, bundle in table["bundles"].items():
            yield table["bundles_to_node_id"][index], bundle


def told(shares: Shares, view: View) -> str:
    """What is waited for, and why it is not there."""
    gpus = shares.use_gpu and sum(gpus for _, gpus in view.free.values()) < shares.num_workers
    total, free = (sum(node[gpus] for node in there.values()) for there in (view.total, view.free))
    reasons = [f"{total - free:g} held by other jobs"] if total > free else []
    reasons += [f"{count} node{'s' * (count != 1)} of type {name} starting" for name, count in view.starting.items()]
    reasons += [view.failed] if view.failed else []
    line = f"waiting for {shares}: there are {free:g} of {total:g} {'GPUs' if gpus else 'CPUs'} free"
    return line + (f" ({', '.join(reasons)})" if reasons else "")


def await_room(shares: Shares, max_wait_s: float, on_wait: Callable[[str | None], None] | None = None) -> None:
    """Wait until there is room for processes that somebody else will place, and an autoscaler has brought it."""
    if not session.is_our_own():
        with reserved(Room(shares), max_wait_s, on_wait):
            pass


def for_run(config: Config, planned: Shares, *, decodes: bool = True) -> Room:
    """Room for the processes of a configuration, as planned (`nodes.plan`) or as the cluster has it."""
    train = config.train.model_copy(update={"use_gpu": planned.use_gpu})  # which nothing changes later
    return Room(planned, config.model_copy(update={"train": train}), decodes, nodes.growth_for(config))


@contextlib.contextmanager
def reserved(
    room: Room, max_wait_s: float, on_wait: Callable[[str | None], None] | None = None
) -> Iterator[tuple[Shares, PlacementGroup]]:
    """Wait for room, say so while it lasts, and hold it.

    Args:
        on_wait: called with what is waited for, again and again; with None when the wait has ended. Without it:
            `resource_wait.show`.

    Raises:
        ResourcesError: it did not come in time.
    """
    on_wait = on_wait or resource_wait.show
    try:
        while not room.poll():
            assert room.waiting is not None
            on_wait(str(room.waiting))
            refuse_longer(room.waiting, max_wait_s)
        on_wait(None)
        assert room.group is not None
        yield room.shares, room.group
    finally:
        on_wait(None)
        room.release()


class Places:
    """The remote arguments of a pool's actors: each its own bundle, so that none takes another's place."""

    def __init__(self, group: PlacementGroup, first: int, count: int) -> None:
        self.group, self.bundles = group, range(first, first + count)
        self.given = 0

    def __call__(self) -> dict[str, Any]:
        bundle = self.bundles[self.given % len(self.bundles)]
        self.given += 1
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, bundle)}
