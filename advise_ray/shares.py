"""Who gets which CPUs: the processes of a run, and what each reserves. Pure arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from advise_ray.config import Config, worker_counts
from advise_ray.errors import UsageError

LEAST_CPUS = 0.25
"""The smallest share of a CPU that a process is given."""
ROUNDING = 1e-6
"""CPUs; shares such as 0.1 do not add up exactly."""
SHRINK = 0.9
"""By which shares are made smaller until they find their places on the nodes."""
Node = tuple[float, float]
"""CPUs and GPUs of a machine."""


@dataclass(frozen=True)
class Shares:
    """The processes of a run and what each reserves."""

    num_workers: int
    cpus_per_worker: float
    num_decode_actors: int
    cpus_per_decode_actor: float
    use_gpu: bool


def share_cpus(config: Config, nodes: Sequence[Node], *, decodes: bool = True) -> Shares:
    """Split the CPUs there are among workers and decode actors; what the configuration fixes is kept.

    Left to choose, there is a decode actor for each CPU that GPU workers leave, and one for every four CPUs where the
    workers compute on CPUs: there the image model takes nearly all the time. Where there are nodes without a GPU beside
    those with one, they decode, and the workers have the CPUs of theirs. Where the workers map a feature cache, nothing
    is decoded, and they have all of them. Of a range of workers, as many as find room.

    Raises:
        UsageError: there is less than 0.25 CPU for each process, there are too few GPUs, or no node has room for one.
    """
    *fewer, least = worker_counts(config)
    for workers in fewer:
        with contextlib.suppress(UsageError):
            return _placed(config, _split(config, nodes, workers, decodes), nodes)
    return _placed(config, _split(config, nodes, least, decodes), nodes)


def _split(config: Config, nodes: Sequence[Node], workers: int, decodes: bool) -> Shares:
    """By the sums over all nodes."""
    data, cpus, gpus = config.data, sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    use_gpu = gpus >= worker_counts(config)[-1] if config.train.use_gpu is None else config.train.use_gpu
    if use_gpu and gpus < workers:
        raise UsageError(
            f"train.num_workers: {workers} workers need as many GPUs, there are {gpus:g}; "
            "lower it or set train.use_gpu=false"
        )
    if not decodes:
        least = config.train.cpus_per_worker or LEAST_CPUS
        if workers * least > cpus + ROUNDING:
            raise UsageError(
                f"train.num_workers: {workers} workers need {workers * least:g} CPUs, there are {cpus:g}; at most "
                f"{int(cpus / least + ROUNDING)} fit"
            )
        return Shares(workers, config.train.cpus_per_worker or _floor(cpus / workers), 0, 0.0, use_gpu)
    decoding_cpus = sum(cpus for cpus, gpus in nodes if gpus < 1)
    if use_gpu and decoding_cpus >= 1:
        actors = data.num_decode_actors or int(decoding_cpus)
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
    wanted = int(cpus - workers if use_gpu else cpus / 4)
    actors = data.num_decode_actors or max(1, min(wanted, room))
    if actors > room:
        least = workers * least_worker + actors * least_actor
        raise UsageError(
            f"train.num_workers: {workers} workers and {actors} decode actors need {least:g} CPUs, there are {cpus:g}; "
            f"{_what_fits(config, cpus)}"
        )
    equal_share = cpus / (workers + actors)
    spare = cpus - workers * (config.train.cpus_per_worker or min(equal_share, 1.0))
    per_actor = data.cpus_per_decode_actor or _floor(min(1.0, spare / actors))
    per_worker = config.train.cpus_per_worker or _floor((cpus - actors * per_actor) / workers)
    return Shares(workers, per_worker, actors, per_actor, use_gpu)


def _placed(config: Config, shares: Shares, nodes: Sequence[Node]) -> Shares:
    """The same, or smaller, so that each process finds a node that has room for it."""
    least_worker, least_actor = _least_cpus(config)
    while not _fit(shares, nodes):
        if shares.cpus_per_worker > least_worker + ROUNDING:
            smaller = _smaller(shares.cpus_per_worker, least_worker, shares.num_workers, nodes)
            shares = replace(shares, cpus_per_worker=smaller)
        elif shares.cpus_per_decode_actor > least_actor + ROUNDING and shares.num_decode_actors:
            smaller = _smaller(shares.cpus_per_decode_actor, least_actor, shares.num_decode_actors, nodes)
            shares = replace(shares, cpus_per_decode_actor=smaller)
        elif shares.num_decode_actors > 1 and config.data.num_decode_actors is None:
            shares = replace(shares, num_decode_actors=shares.num_decode_actors - 1)
        else:
            rooms = ", ".join(f"{cpus:g} CPUs" + (f" {gpus:g} GPUs" if gpus else "") for cpus, gpus in nodes)
            raise UsageError(
                f"train.num_workers: {shares.num_workers} worker(s) of {shares.cpus_per_worker:g} CPUs and "
                f"{shares.num_decode_actors} decode actor(s) of {shares.cpus_per_decode_actor:g} do not fit the nodes "
                f"({rooms}), since none is split between two; ask for less, or add a node"
            )
    return shares


def _smaller(share: float, least: float, count: int, nodes: Sequence[Node]) -> float:
    """The next share below: a tenth less, or an equal part of some node on the way there."""
    parts = [_floor(cpus / among) for cpus, _ in set(nodes) for among in range(1, count + 1)]
    return max(least, _floor(share * SHRINK), *(part for part in parts if least <= part < share - ROUNDING))


def _fit(shares: Shares, nodes: Sequence[Node]) -> bool:
    """Whether each process has a place: workers first, each where most is left; decoders beside no GPU if they can."""
    left = [list(node) for node in nodes]
    for _ in range(shares.num_workers):
        rooms = [node for node in left if node[1] >= 1] if shares.use_gpu else left
        node = max(rooms, key=lambda room: room[0], default=[0.0, 0.0])
        if node[0] + ROUNDING < shares.cpus_per_worker:
            return False
        node[0] -= shares.cpus_per_worker
        node[1] -= shares.use_gpu
    for _ in range(shares.num_decode_actors):
        fitting = [node for node in left if node[0] + ROUNDING >= shares.cpus_per_decode_actor]
        if not fitting:
            return False
        min(fitting, key=lambda room: room[1])[0] -= shares.cpus_per_decode_actor
    return True


def _least_cpus(config: Config) -> tuple[float, float]:
    """CPUs that a worker and a decode actor cannot do without."""
    return config.train.cpus_per_worker or LEAST_CPUS, config.data.cpus_per_decode_actor or LEAST_CPUS


def _what_fits(config: Config, cpus: float) -> str:
    least_worker, least_actor = _least_cpus(config)
    workers = int((cpus - least_actor) / least_worker + ROUNDING)
    if workers < 1:
        return "not even one worker fits beside a decode actor"
    actors = int((cpus - least_worker) / least_actor + ROUNDING)
    return f"at most {workers} worker(s) beside one decode actor, or {actors} decode actor(s) beside one worker"


def _floor(cpus: float) -> float:
    """Down to hundredths, so that the sum of the shares never exceeds the whole."""
    return int(cpus * 100 + ROUNDING) / 100
