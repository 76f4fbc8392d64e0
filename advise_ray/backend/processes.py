"""The processes of a run, what each reserves, and the nodes that a cluster has or may get."""

from __future__ import annotations

from dataclasses import dataclass

Node = tuple[float, float]
"""(CPUs, GPUs) of a machine."""


@dataclass(frozen=True)
class NodeType:
    """A type of node that an autoscaler may add."""

    name: str
    cpus: float
    gpus: float
    most: int
    """At most this many nodes of this type."""


@dataclass(frozen=True)
class Growth:
    """The nodes that an autoscaler may add."""

    types: tuple[NodeType, ...] = ()
    most: int = 0
    """At most this many nodes of all types together."""

    @property
    def nodes(self) -> list[Node]:
        """All nodes that may be added, limited by type. `most` limits how many of them can exist at once."""
        return [(kind.cpus, kind.gpus) for kind in self.types for _ in range(min(kind.most, self.most))]


NOTHING_COMES = Growth()


@dataclass(frozen=True)
class Shares:
    """The processes of a run, and the CPUs and GPUs that each reserves."""

    num_workers: int
    cpus_per_worker: float
    num_decode_actors: int
    cpus_per_decode_actor: float
    use_gpu: bool

    @property
    def worker_bundle(self) -> dict[str, float]:
        """The resources that a worker reserves, with Ray's names."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1.0} if self.use_gpu else {})

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The resources of each process, workers first."""
        return [self.worker_bundle] * self.num_workers + [{"CPU": self.cpus_per_decode_actor}] * self.num_decode_actors

    @property
    def cpus(self) -> float:
        """CPUs of all processes together."""
        return self.num_workers * self.cpus_per_worker + self.num_decode_actors * self.cpus_per_decode_actor

    def __str__(self) -> str:
        gpu = "1 GPU, " if self.use_gpu else ""
        words = f"{count(self.num_workers, 'worker')} of {gpu}{count(self.cpus_per_worker, 'CPU')}"
        if self.num_decode_actors:
            decoders = count(self.num_decode_actors, "decode actor")
            words += f" and {decoders} of {count(self.cpus_per_decode_actor, 'CPU')}"
        return words


def decode_actors_of(rank: int, num_workers: int, num_decode_actors: int) -> int:
    """The number of decode actors of a worker. If they do not divide, the first workers have one more."""
    return num_decode_actors // num_workers + (rank < num_decode_actors % num_workers)


def count(number: float, noun: str) -> str:
    """For people: `1 worker`, `0.5 CPUs`."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")
