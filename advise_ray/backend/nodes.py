"""The state of a cluster: its nodes, their free CPUs and GPUs, and the nodes that its autoscaler may add.

Open-source Ray (2.60) has no API for the node types of its autoscaler (`state.get_cluster_config()` is None). This
module reads them on the head, from the file with which the autoscaler was started.
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import psutil
import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advise_ray.backend import session
from advise_ray.backend.processes import NOTHING_COMES, Growth, Node, NodeType, Shares
from advise_ray.backend.shares import share_cpus
from advise_ray.config import Config, worker_counts

DECODERS_PER_WORKER = 4
"""Used if the autoscaler's node types are unknown and the configuration does not set the number of decode actors."""
HEAD = "node:__internal_head__"
LOOK_S = 10.0
SEE_LOG = "see logs/monitor.log of Ray's session on the head"


@dataclass(frozen=True)
class View:
    """A snapshot of a cluster. The keys of `total` and `free` are node ids."""

    total: dict[str, Node]
    free: dict[str, Node]
    """CPUs and GPUs that nobody has reserved; zero for a node that is draining."""
    growth: Growth
    """The nodes that the autoscaler may still add."""
    starting: dict[str, int]
    """Number of nodes that are starting, by type."""
    failed: str
    """Why a requested node did not start; empty if none failed."""


def plan(config: Config, *, decodes: bool = True) -> Shares:
    """Plan the processes of a run on the nodes of the cluster and those that it may add; see `share_cpus`.

    If this process is not connected yet, the plan is for this machine.

    Raises:
        UsageError: the cluster can never have room for the processes of the configuration.
    """
    here = session.nodes()
    if session.is_our_own() or not ray.is_initialized():
        return share_cpus(config, here, decodes=decodes)
    return share_cpus(config, here, look(growth_for(config)).growth, decodes=decodes)


def everywhere(config: Config) -> Config:
    """Return the configuration with up to one worker for each GPU, or for each node if there are no GPUs.

    A configuration with several workers is returned unchanged.
    """
    if config.train.num_workers != 1:
        return config
    here = session.nodes()
    gpus = 0 if config.train.use_gpu is False else sum(int(gpus) for _, gpus in here)
    most = max(1, gpus or sum(cpus >= 1 for cpus, _ in here))
    any_number = config.data.clip.clips_per_video * math.lcm(*range(1, most + 1))
    train = config.train.model_copy(update={"num_workers": (1, most), "global_batch_size": any_number})
    return config.model_copy(update={"train": train})


def most_nodes(config: Config) -> list[Node]:
    """The present nodes, and all nodes that the autoscaler may add."""
    here = session.nodes()
    if session.is_our_own():
        return here
    growth = look(growth_for(config)).growth
    return here + growth.nodes[: growth.most]


def growth_for(config: Config) -> Growth:
    """All nodes that the cluster's autoscaler may have. If unknown: the nodes that this configuration needs."""
    if session.is_our_own():
        return NOTHING_COMES
    known = _growth_of_this_ray()
    return known if known is not None else _nodes_needed(config)


def look(most: Growth) -> View:
    """Take a snapshot of the cluster.

    Args:
        most: all nodes that the autoscaler may have, see `growth_for`.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status  # a slow import; only a waiting run needs it

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    total, free, there = {}, {}, Counter[str]()
    for node in (*status.active_nodes, *status.idle_nodes):
        has, left = node.total_resources(), node.available_resources()
        total[str(node.node_id)] = _node(has)
        free[str(node.node_id)] = (0.0, 0.0) if node.node_status == "DRAINING" else _node(left)
        there[node.ray_node_type_name] += HEAD not in has
    starting = Counter({launch.ray_node_type_name: launch.count for launch in status.pending_launches})
    starting += Counter(node.ray_node_type_name for node in status.pending_nodes)
    left_types = tuple(replace(kind, most=max(0, kind.most - there[kind.name])) for kind in most.types)
    failed = [
        f"a node of type {launch.ray_node_type_name} did not start: {launch.details or SEE_LOG}"
        for launch in status.failed_launches[-1:]
    ]
    return View(total, free, Growth(left_types, max(0, most.most - there.total())), dict(starting), "; ".join(failed))


class NodeUsage(TypedDict):
    """The address of a node, its CPUs and GPUs, and those that are not reserved."""

    address: str
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float


def usage() -> list[NodeUsage]:
    """The total and the unreserved CPUs and GPUs of each node."""
    free = ray._private.state.available_resources_per_node()
    return [
        NodeUsage(
            address=node["NodeManagerAddress"],
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
            free_cpus=free.get(node["NodeID"], {}).get("CPU", 0),
            free_gpus=free.get(node["NodeID"], {}).get("GPU", 0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def growth_of(cluster: Mapping[str, Any]) -> Growth | None:
    """The nodes that a cluster file lets its autoscaler add. None if the file does not state a type's resources."""
    if (cluster.get("provider") or {}).get("type") == "local":
        return NOTHING_COMES
    types = cluster.get("available_node_types") or {}
    if not types:
        return None
    most = int(cluster.get("max_workers", 2))  # Ray's default
    kinds = []
    for name, kind in types.items():
        limit = int(kind.get("max_workers", 0 if name == cluster.get("head_node_type") else most))
        resources = kind.get("resources") or {}
        if limit and not resources:
            return None
        kinds.append(NodeType(str(name), *_node(resources), most=min(limit, most)))
    return Growth(tuple(kind for kind in kinds if kind.most), most)


def head_of(cluster: Mapping[str, Any]) -> Node:
    """CPUs and GPUs of the head node that a cluster file describes."""
    types = cluster.get("available_node_types") or {}
    return _node((types.get(cluster.get("head_node_type")) or {}).get("resources") or {})


def _node(resources: Mapping[str, float]) -> Node:
    return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))


@functools.cache
def _growth_of_this_ray() -> Growth | None:
    """Read the autoscaler's file, on the head. None if the autoscaler has no such file (KubeRay)."""
    address = ray.get_runtime_context().gcs_address
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    if not heads or ray.get_runtime_context().get_node_id() == heads[0]:
        return _growth_by_the_monitor(address)
    there = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    asked = ray.remote(_growth_by_the_monitor).options(num_cpus=0, scheduling_strategy=there).remote(address)
    return ray.get(asked, timeout=LOOK_S)


def _growth_by_the_monitor(address: str) -> Growth | None:
    """Find the autoscaler's process (`monitor.py`) and read its file. Must run on the head."""
    port = address.rpartition(":")[2]  # compare ports only: a host can have several names
    for process in psutil.process_iter(["cmdline"]):
        command: Sequence[str] = process.info["cmdline"] or ()
        given = dict(part.split("=", 1) for part in command if "=" in part)
        if any(part.endswith("monitor.py") for part in command) and given.get("--gcs-address", "").endswith(f":{port}"):
            file = given.get("--autoscaling-config")
            return (
                growth_of(yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8")))
                if file
                else NOTHING_COMES
            )
    return None if "KUBERNETES_SERVICE_HOST" in os.environ else NOTHING_COMES


def _nodes_needed(config: Config) -> Growth:
    """The nodes that a configuration needs, each with room for one process."""
    train, data, workers = config.train, config.data, worker_counts(config)[0]
    decoders = data.num_decode_actors or DECODERS_PER_WORKER * workers
    cpus = max(1.0, data.cpus_per_decode_actor or 0.0)
    if train.use_gpu:
        kinds = [NodeType("gpu", train.cpus_per_worker or 1.0, 1.0, workers), NodeType("cpu", cpus, 0.0, decoders)]
    else:
        kinds = [NodeType("cpu", max(cpus, train.cpus_per_worker or 0.0), 0.0, workers + decoders)]
    return Growth(tuple(kinds), workers + decoders)
