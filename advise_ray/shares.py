"""Who gets which CPUs: the processes of a run, and what each reserves. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from advise_ray.config import Config
from advise_ray.errors import UsageError

LEAST_CPUS = 0.25
"""The smallest share of a CPU that a process is given."""
ROUNDING = 1e-6
"""CPUs; shares such as 0.1 do not add up exactly."""


@dataclass(frozen=True)
class Shares:
    """The processes of a run and what each reserves."""

    num_workers: int
    cpus_per_worker: float
    num_decode_actors: int
    cpus_per_decode_actor: float
    use_gpu: bool


def share_cpus(config: Config, cpus: float, gpus: float, *, decodes: bool = True) -> Shares:
    """Split the CPUs there are among workers and decode actors; what the configuration fixes is kept.

    Left to choose, there is a decode actor for each CPU that GPU workers leave, and one for every four CPUs where the
    workers compute on CPUs: there the image model takes nearly all the time. Where the workers map a feature cache,
    nothing is decoded, and they have all of them.

    Raises:
        UsageError: there is less than 0.25 CPU for each process, or too few GPUs.
    """
    workers, data = config.train.num_workers, config.data
    use_gpu = gpus >= workers if config.train.use_gpu is None else config.train.use_gpu
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
