"""Reserves CPUs and GPUs on a cluster for all processes of a run at once, waits for them, and releases them.

The reservation is a placement group with a bundle for each worker and each decode actor. So workers never take the CPUs
of the actors that decode for them. Two runs never hold half of what each needs. And an autoscaler sees all requests of
a run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from advise_ray.backend import nodes, resource_wait, session
from advise_ray.backend.nodes import View
from advise_ray.backend.processes import NOTHING_COMES, Growth, Shares
from advise_ray.backend.resource_wait import Waiting, describe_wait, refuse_longer
from advise_ray.backend.shares import share_cpus
from advise_ray.config import Config, worker_counts
from advise_ray.errors import UsageError

ask_newcomers: Callable[[set[str]], None] | None = None
"""Checks nodes that joined after a cluster job started, before the job uses them. The argument is their ids."""
FIRST_WAIT_S, POLL_S = 3.0, 1.0
BROKEN_FOR_S = 15.0
"""How long a run waits for a replacement of a lost node, before it restarts with fewer processes."""
MUCH_MORE = 2.0
"""A run with a range of workers restarts if its workers, or its decode actors, could have this many times the CPUs."""


@dataclass
class Reservation:
    """The processes of a run and their reservation.

    Attributes:
        shares: the planned processes; `poll` adapts them to what the cluster has.
        config: used to adapt `shares` to the cluster. If None, `shares` never changes.
        growth: all nodes that the cluster's autoscaler may have.
        group: the placement group that is requested or held; None before the first `poll` and after `take`.
        waiting: what the run waits for, and since when; None if it does not wait.
    """

    shares: Shares
    config: Config | None = None
    decodes: bool = True
    growth: Growth = NOTHING_COMES
    group: PlacementGroup | None = None
    waiting: Waiting | None = None
    more: PlacementGroup | None = field(default=None, repr=False)
    """A request for more workers and decode actors of a run that is already training."""
    broken_since_s: float | None = field(default=None, repr=False)
    ask: Callable[[set[str]], None] | None = field(default_factory=lambda: ask_newcomers, repr=False)
    """See `ask_newcomers`. It is a field because this object is pickled and sent to other processes."""

    def poll(self) -> bool:
        """Whether the reservation is complete. The caller repeats this call until it is.

        The first call requests the planned (or the previous) shares. Later calls adapt the request to what the cluster
        has or may add.

        Raises:
            ClusterError: a node that joined after the preflight check differs from the other nodes.
        """
        wait_s = POLL_S
        if self.group is None:
            self.release()
            self._request(self.shares)
            wait_s = FIRST_WAIT_S
        if not self._is_placed(wait_s):
            view = nodes.look(self.growth)
            if (wanted := self._choose_shares(view)) != self.shares:
                self._request(wanted)
            if not self._is_placed(0.0):
                since_s = self.waiting.since_s if self.waiting else time.time() - wait_s
                self.waiting = Waiting(describe_wait(self.shares, view), since_s)
                return False
        self.waiting = None
        if self.ask is not None and self.group is not None:
            self.ask({node for node, _ in _places_of(self.group)})
        return True

    def take(self) -> PlacementGroup:
        """Return the placement group. From now on the caller must remove it."""
        assert self.group is not None
        group, self.group = self.group, None
        return group

    def release(self) -> None:
        """Remove the placement groups that are held or requested."""
        for group in (self.group, self.more):
            if group is not None:
                remove_placement_group(group)
        self.group = self.more = self.broken_since_s = None

    def is_broken(self, group: PlacementGroup) -> bool:
        """Whether the group has lost a node, and got no replacement within BROKEN_FOR_S."""
        if placement_group_table(group)["state"] == "CREATED":
            self.broken_since_s = None
            return False
        self.broken_since_s = self.broken_since_s or time.time()
        return time.time() - self.broken_since_s > BROKEN_FOR_S

    def could_be_better(self, group: PlacementGroup) -> bool:
        """Whether a run with a range of workers could have more than its `group`. If so, `shares` is set to that.

        If the autoscaler would have to add nodes for that, this requests them.
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
            self._request_more(better)
        return False

    def _request_more(self, better: Shares) -> None:
        """Request what `better` has beyond the present shares, so that the autoscaler adds nodes for it."""
        workers = max(0, better.num_workers - self.shares.num_workers)
        decoders = max(0, better.num_decode_actors - self.shares.num_decode_actors)
        if self.more is None and workers + decoders > 0 and _is_better(better, self.shares):
            added = replace(better, num_workers=workers, num_decode_actors=decoders)
            self.more = placement_group(added.bundles, strategy="PACK")

    def _choose_shares(self, view: View) -> Shares:
        """Choose the shares to request.

        In this order: those that fit now, those that fit when the autoscaler has added nodes, those that fit when
        other jobs have ended, the previous ones.
        """
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

    def _request(self, shares: Shares) -> None:
        if self.group is not None:
            remove_placement_group(self.group)
        self.shares = shares
        self.group = placement_group(shares.bundles, strategy="PACK")

    def _is_placed(self, wait_s: float) -> bool:
        return self.group is not None and self.group.wait(wait_s)


def _is_better(these: Shares, those: Shares) -> bool:
    """Whether `these` justify a restart: more workers, or as many with far more CPUs for training or for decoding."""
    if these.num_workers != those.num_workers:
        return these.num_workers > those.num_workers
    decoding = those.num_decode_actors * those.cpus_per_decode_actor
    return these.cpus_per_worker >= MUCH_MORE * those.cpus_per_worker or (
        decoding > 0 and these.num_decode_actors * these.cpus_per_decode_actor >= MUCH_MORE * decoding
    )


def _places_of(group: PlacementGroup) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the node id and the resources of each bundle of a placement group; nothing if the group is not placed."""
    table = placement_group_table(group)
    if table["state"] == "CREATED":
        for index, bundle in table["bundles"].items():
            yield table["bundles_to_node_id"][index], bundle


def loses_a_node(group: PlacementGroup) -> bool:
    """Whether a node of the group will soon be gone. Ray Train announces only the nodes of workers."""
    leaving = ray._private.state.state.get_draining_nodes()
    return bool(leaving) and any(node in leaving for node, _ in _places_of(group))


def await_resources(shares: Shares, max_wait_s: float, on_wait: Callable[[str | None], None] | None = None) -> None:
    """Wait until the cluster, with nodes that its autoscaler adds, has room for the caller's processes."""
    if not session.is_our_own():
        with reserved(Reservation(shares), max_wait_s, on_wait):
            pass


def for_run(config: Config, planned: Shares, *, decodes: bool = True) -> Reservation:
    """The `Reservation` of a configuration: as planned (`nodes.plan`), or adapted to what the cluster has."""
    train = config.train.model_copy(update={"use_gpu": planned.use_gpu})  # fixed for the whole run
    return Reservation(planned, config.model_copy(update={"train": train}), decodes, nodes.growth_for(config))


@contextlib.contextmanager
def reserved(
    room: Reservation, max_wait_s: float, on_wait: Callable[[str | None], None] | None = None
) -> Iterator[tuple[Shares, PlacementGroup]]:
    """Wait for the reservation, report the wait, and hold the reservation inside the `with` block.

    Args:
        on_wait: called repeatedly with a line that says what the run waits for, and with None when the wait ends.
            Default: `resource_wait.show`.

    Raises:
        ResourcesError: the wait took longer than `max_wait_s`.
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
    """The remote arguments of the actors of a pool. Each actor gets its own bundle of the placement group."""

    def __init__(self, group: PlacementGroup, first: int, count: int) -> None:
        self.group, self.bundles = group, range(first, first + count)
        self.given = 0

    def __call__(self) -> dict[str, Any]:
        bundle = self.bundles[self.given % len(self.bundles)]
        self.given += 1
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, bundle)}
