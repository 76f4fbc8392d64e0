"""What a cluster has, and what it may become: its nodes, the room that is free on them, the node types it may bring.

Open-source Ray (2.60) does not say which node types its autoscaler has (`state.get_cluster_config()` is None): they
stand in the file that the autoscaler was started with, on the head.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advise_ray.backend import session
from advise_ray.backend.resources import NOTHING_COMES, Growth, Node, NodeType, Shares, share_cpus
from advise_ray.config import Config, worker_counts

DECODERS_PER_WORKER = 4
"""Where nobody knows what an autoscaler may bring, and the number of decode actors is left to choose."""
HEAD = "node:__internal_head__"
LOOK_S = 10.0
SEE_LOG = "see logs/monitor.log of Ray's session on the head"


@dataclass(frozen=True)
class View:
    """A cluster at this moment. Nodes are by their id."""

    total: dict[str, Node]
    free: dict[str, Node]
    """What nobody has reserved; nothing of a node that is about to leave."""
    growth: Growth
    """What may come beside them."""
    starting: dict[str, int]
    """Nodes that are on their way, by type."""
    failed: str
    """Why nodes that were asked for did not come; or nothing."""


def plan(config: Config, *, decodes: bool = True) -> Shares:
    """The processes of a run, by the nodes of the cluster and those that it may bring; see `share_cpus`.

    Before this process is connected, by this machine.

    Raises:
        UsageError: what is asked for can never be.
    """
    here = session.nodes()
    if session.is_our_own() or not ray.is_initialized():
        return share_cpus(config, here, decodes=decodes)
    return share_cpus(config, here, look(growth_for(config)).growth, decodes=decodes)


def most_nodes(config: Config) -> list[Node]:
    """The nodes there are, and all that may come beside them."""
    here = session.nodes()
    if session.is_our_own():
        return here
    growth = look(growth_for(config)).growth
    return here + growth.nodes[: growth.most]


def growth_for(config: Config) -> Growth:
    """All that the cluster's autoscaler may ever bring; where nobody knows, what this configuration asks for."""
    if session.is_our_own():
        return NOTHING_COMES
    known = _growth_of_this_ray()
    return known if known is not None else _asked(config)


def look(most: Growth) -> View:
    """The cluster as it is now.

    Args:
        most: see `growth_for`.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status  # half a second, and only who waits needs it

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


def usage() -> list[dict[str, Any]]:
    """What each node has, and what of it nobody has reserved.

    Returns:
        For each node `address`, `cpus`, `gpus`, `free_cpus`, `free_gpus`.
    """
    free = ray._private.state.available_resources_per_node()
    return [
        {
            "address": node["NodeManagerAddress"],
            **{kind.lower() + "s": node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")},
            **{f"free_{kind.lower()}s": free.get(node["NodeID"], {}).get(kind, 0) for kind in ("CPU", "GPU")},
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def growth_of(cluster: Mapping[str, Any]) -> Growth | None:
    """What a cluster file lets its autoscaler bring; None where it leaves the resources of a type to be found out."""
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
    """The head of a cluster file."""
    types = cluster.get("available_node_types") or {}
    return _node((types.get(cluster.get("head_node_type")) or {}).get("resources") or {})


def _node(resources: Mapping[str, float]) -> Node:
    return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))


@functools.cache
def _growth_of_this_ray() -> Growth | None:
    """By the file that its autoscaler reads; None where there is an autoscaler, and no file (KubeRay)."""
    address = ray.get_runtime_context().gcs_address
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    if not heads or ray.get_runtime_context().get_node_id() == heads[0]:
        return _growth_by_the_monitor(address)
    there = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    asked = ray.remote(_growth_by_the_monitor).options(num_cpus=0, scheduling_strategy=there).remote(address)
    return ray.get(asked, timeout=LOOK_S)


def _growth_by_the_monitor(address: str) -> Growth | None:
    """On the head, where Ray's autoscaler runs as a process of its own."""
    port = address.rpartition(":")[2]  # a host has several names
    for process in psutil.process_iter(["cmdline"]):
        command: Sequence[str] = process.info["cmdline"] or ()
        given = dict(part.split("=", 1) for part in command if "=" in part)
        if any(part.endswith("monitor.py") for part in command) and given.get("--gcs-address", "").endswith(f":{port}"):
            file = given.get("--autoscaling-config")
            return growth_of(yaml.safe_load(Path(file).expanduser().read_text())) if file else NOTHING_COMES
    return None if "KUBERNETES_SERVICE_HOST" in os.environ else NOTHING_COMES


def _asked(config: Config) -> Growth:
    """Nodes as a configuration asks for them, each with room for one of its processes."""
    train, data, workers = config.train, config.data, worker_counts(config)[0]
    decoders = data.num_decode_actors or DECODERS_PER_WORKER * workers
    cpus = max(1.0, data.cpus_per_decode_actor or 0.0)
    if train.use_gpu:
        kinds = [NodeType("gpu", train.cpus_per_worker or 1.0, 1.0, workers), NodeType("cpu", cpus, 0.0, decoders)]
    else:
        kinds = [NodeType("cpu", max(cpus, train.cpus_per_worker or 0.0), 0.0, workers + decoders)]
    return Growth(tuple(kinds), workers + decoders)
