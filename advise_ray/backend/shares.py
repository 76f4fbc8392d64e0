"""Divides CPUs and GPUs among the processes of a run. Pure arithmetic."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from advise_ray.backend.processes import NOTHING_COMES, Growth, Node, Shares, count
from advise_ray.config import Config, worker_counts
from advise_ray.errors import UsageError

LEAST_CPUS = 0.25
"""The smallest share of a CPU that a process gets."""
ROUNDING = 1e-6
"""Tolerance in CPUs, because shares such as 0.1 do not add up exactly."""
SHRINK = 0.9
"""Factor by which shares are reduced until they fit on the nodes."""
DECODERS_PER_GPU = 16
"""CPU-only nodes are added for this many decode actors for each GPU, if the configuration does not set the number."""


def share_cpus(
    config: Config, nodes: Sequence[Node], growth: Growth = NOTHING_COMES, *, decodes: bool = True
) -> Shares:
    """Divide the CPUs of the present nodes, and of nodes that may be added, among workers and decode actors.

    Values that the configuration sets are kept. The others are chosen by these rules:

    - Each worker has decode actors of its own, all workers the same number.
    - Workers on GPUs: one decode actor for each CPU that the workers leave free.
    - Workers on CPUs: one decode actor for every four CPUs, because the image model takes nearly all the time.
    - If some nodes have a GPU and others have none, the nodes without a GPU decode. The workers get the CPUs of their
      own nodes.
    - If the workers read a local feature cache, nothing is decoded, and the workers get all CPUs.
    - With a range of workers: as many workers as can have one CPU each, at least the lower end of the range.
    - Nodes are added only as far as this needs them; for workers on GPUs also nodes that decode for them.

    Args:
        nodes: the present nodes.
        growth: the nodes that may be added.
        decodes: whether the run needs decode actors.

    Raises:
        UsageError: even with all nodes that may be added, there is less than 0.25 CPU for each process, there are too
            few GPUs, or a process fits on no node.
    """
    counts, least = worker_counts(config), min(1.0, config.train.cpus_per_worker or 1.0)
    gpus = sum(node[1] for node in nodes) + sum(sorted((gpus for _, gpus in growth.nodes), reverse=True)[: growth.most])
    use_gpu = gpus >= counts[-1] if config.train.use_gpu is None else config.train.use_gpu
    cluster = list(nodes)
    for workers in counts:
        for cluster in _growing(config, nodes, growth, workers if use_gpu else 0, decodes):
            with contextlib.suppress(UsageError):
                shares = _placed(config, _split(config, cluster, workers, use_gpu, decodes), cluster)
                grown = len(cluster) - len(nodes) == min(growth.most, len(growth.nodes))
                if use_gpu or (_suffices(config, shares) if not grown else shares.cpus_per_worker >= least):
                    return shares
    has = "there can be at most" if growth.most else "there are"
    return _placed(config, _split(config, cluster, counts[-1], use_gpu, decodes, has), cluster)


def _suffices(config: Config, shares: Shares) -> bool:
    """Whether no more nodes need to be added.

    If the configuration does not set the CPUs of a worker, each worker must have one CPU. If it does, the decode actors
    must have as many CPUs as the workers.
    """
    if (own := config.train.cpus_per_worker) is None:
        return shares.cpus_per_worker >= 1
    decoding_cpus = shares.num_decode_actors * shares.cpus_per_decode_actor
    enough = decoding_cpus + ROUNDING >= int(shares.num_workers * own)
    return config.data.num_decode_actors is not None or not decoding_cpus or enough


def _growing(
    config: Config, nodes: Sequence[Node], growth: Growth, gpu_workers: int, decodes: bool
) -> Iterator[list[Node]]:
    """Yield the present nodes with more and more added nodes. Nodes with room for a worker are added first."""
    least = config.train.cpus_per_worker or 1.0
    coming = sorted(growth.nodes, key=lambda node: (node[1], node[0] < least, node[0]))
    cluster = list(nodes)

    def bring(wanted: Callable[[Node], bool]) -> bool:
        node = next(filter(wanted, coming), None)
        if node is None or len(cluster) - len(nodes) == growth.most:
            return False
        coming.remove(node)
        cluster.append(node)
        return True

    while sum(int(gpus) for _, gpus in cluster) < gpu_workers and bring(lambda node: node[1] >= 1):
        pass
    decoders = DECODERS_PER_GPU * gpu_workers if decodes and config.data.num_decode_actors is None else 0
    while sum(cpus for cpus, gpus in cluster if gpus < 1) < decoders and bring(lambda node: node[1] < 1):
        pass
    yield list(cluster)
    while bring(lambda node: True):
        yield list(cluster)


def _split(
    config: Config, nodes: Sequence[Node], workers: int, use_gpu: bool, decodes: bool, has: str = "there are"
) -> Shares:
    """Divide the sums over all nodes. `has` introduces these sums in error messages."""
    data, cpus, gpus = config.data, sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    if use_gpu and gpus < workers:
        raise UsageError(
            f"train.num_workers: {workers} workers need as many GPUs, {has} {gpus:g}; "
            "lower it or set train.use_gpu=false"
        )
    if not decodes:
        least = config.train.cpus_per_worker or LEAST_CPUS
        if workers * least > cpus + ROUNDING:
            raise UsageError(
                f"train.num_workers: {workers} workers need {workers * least:g} CPUs, {has} {cpus:g}; at most "
                f"{int(cpus / least + ROUNDING)} fit"
            )
        return Shares(workers, config.train.cpus_per_worker or _floor(cpus / workers), 0, 0.0, use_gpu)
    # With fewer workers than the upper end of the range, the number of decode actors is reduced in proportion.
    asked = data.num_decode_actors and math.ceil(data.num_decode_actors * workers / worker_counts(config)[0])
    asked = asked and max(asked, workers)
    decoding_cpus = sum(cpus for cpus, gpus in nodes if gpus < 1)
    if use_gpu and decoding_cpus >= 1:
        actors = asked or _equal(int(decoding_cpus), workers)
        own = min(cpus / gpus for cpus, gpus in nodes if gpus >= 1)
        return Shares(
            workers,
            config.train.cpus_per_worker or max(_floor(own), LEAST_CPUS),
            actors,
            data.cpus_per_decode_actor or max(_floor(min(1.0, decoding_cpus / actors)), LEAST_CPUS),
            use_gpu,
        )
    least_worker, least_actor = _least_cpus(config)
    room = int((cpus - workers * least_worker) / least_actor + ROUNDING)
    wanted = _equal(_wanted(config, cpus, workers, use_gpu), workers)
    actors = asked or max(workers, min(wanted, room // workers * workers))
    if actors > room:
        least = workers * least_worker + actors * least_actor
        raise UsageError(
            f"train.num_workers: {count(workers, 'worker')} and {count(actors, 'decode actor')} need {least:g} CPUs, "
            f"{has} {cpus:g}; {_what_fits(config, cpus)}"
        )
    equal_share = cpus / (workers + actors)
    spare = cpus - workers * (config.train.cpus_per_worker or min(equal_share, 1.0))
    per_actor = data.cpus_per_decode_actor or _floor(min(1.0, spare / actors))
    per_worker = config.train.cpus_per_worker or _floor((cpus - actors * per_actor) / workers)
    return Shares(workers, per_worker, actors, per_actor, use_gpu)


def _equal(actors: int, workers: int) -> int:
    """The number of decode actors, rounded up so that each worker has as many as the others."""
    return max(1, -(-actors // workers)) * workers


def _wanted(config: Config, cpus: float, workers: int, use_gpu: bool) -> int:
    """Number of decode actors, if the configuration does not set it."""
    if use_gpu:
        return int(cpus - workers)
    if (own := config.train.cpus_per_worker) is not None:  # use the CPUs that these workers leave free
        return int(max(cpus / 4, min(cpus - workers * own, workers * own)))
    return int(cpus / 4)


def _placed(config: Config, shares: Shares, nodes: Sequence[Node]) -> Shares:
    """Return the shares, reduced if necessary, so that each process fits on a node."""
    least_worker, least_actor = _least_cpus(config)
    while not _fit(shares, nodes):
        if shares.cpus_per_worker > least_worker + ROUNDING:
            smaller = _smaller(shares.cpus_per_worker, least_worker, shares.num_workers, nodes)
            shares = replace(shares, cpus_per_worker=smaller)
        elif shares.cpus_per_decode_actor > least_actor + ROUNDING and shares.num_decode_actors:
            smaller = _smaller(shares.cpus_per_decode_actor, least_actor, shares.num_decode_actors, nodes)
            shares = replace(shares, cpus_per_decode_actor=smaller)
        elif shares.num_decode_actors > shares.num_workers and config.data.num_decode_actors is None:
            shares = replace(shares, num_decode_actors=shares.num_decode_actors - shares.num_workers)
        else:
            kinds = Counter(f"{cpus:g} CPUs" + (f" {gpus:g} GPUs" if gpus else "") for cpus, gpus in nodes)
            rooms = ", ".join(kind if number == 1 else f"{number} of {kind}" for kind, number in kinds.items())
            raise UsageError(
                f"train.num_workers: {shares} do not fit the nodes ({rooms or 'there are none'}): a process cannot use "
                "two nodes; request fewer CPUs or GPUs, or add a node"
            )
    return shares


def _smaller(share: float, least: float, count: int, nodes: Sequence[Node]) -> float:
    """The next smaller share: a tenth less, or an equal part of a node if one lies between."""
    parts = [_floor(cpus / among) for cpus, _ in set(nodes) for among in range(1, count + 1)]
    return max(least, _floor(share * SHRINK), *(part for part in parts if least <= part < share - ROUNDING))


def _fit(shares: Shares, nodes: Sequence[Node]) -> bool:
    """Whether all processes fit when Ray places them as a PACK group.

    Ray places the largest process first, on the node that then has the most left. Then it places all other processes
    that fit on that node, and repeats this with the rest.
    """
    workers = [(shares.cpus_per_worker, float(shares.use_gpu))] * shares.num_workers
    waiting = sorted(
        workers + [(shares.cpus_per_decode_actor, 0.0)] * shares.num_decode_actors, reverse=True, key=_size
    )
    left = list(nodes)
    while waiting:
        room = max(left, key=lambda node: _left_over(waiting[0], node), default=(0.0, 0.0))
        if _left_over(waiting[0], room) < 0:
            return False
        left.remove(room)
        cpus, gpus = room
        others = []
        for process in waiting:
            if cpus + ROUNDING >= process[0] and gpus >= process[1]:
                cpus, gpus = cpus - process[0], gpus - process[1]
            else:
                others.append(process)
        waiting = others
    return True


def _size(process: Node) -> Node:
    """Sort key: GPUs first, then CPUs."""
    return process[1], process[0]


def _left_over(process: Node, node: Node) -> float:
    """Ray's score of a node for a process (LeastResourceScorer): the fraction left; -1 if the process does not fit."""
    if process[0] > node[0] + ROUNDING or process[1] > node[1]:
        return -1.0
    return sum((has - takes) / has for takes, has in zip(process, node, strict=True) if takes and has)


def _least_cpus(config: Config) -> tuple[float, float]:
    """The fewest CPUs of a worker and of a decode actor."""
    return config.train.cpus_per_worker or LEAST_CPUS, config.data.cpus_per_decode_actor or LEAST_CPUS


def _what_fits(config: Config, cpus: float) -> str:
    least_worker, least_actor = _least_cpus(config)
    workers = int(cpus / (least_worker + least_actor) + ROUNDING)
    if workers < 1:
        return "not even one worker fits with one decode actor"
    actors = int((cpus - least_worker) / least_actor + ROUNDING)
    most = count(workers, "worker"), count(actors, "decode actor")
    return f"at most {most[0]} with a decode actor each, or {most[1]} with one worker"


def _floor(cpus: float) -> float:
    """Round down to hundredths, so that the sum of the shares never exceeds the whole."""
    return int(cpus * 100 + ROUNDING) / 100
