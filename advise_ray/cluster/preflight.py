"""Checks a cluster before a job starts: its nodes, their package versions, and the files that all nodes must read."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advise_ray import tracking
from advise_ray.backend import packages
from advise_ray.config import Config
from advise_ray.errors import AdviseRayError, ClusterError, TrackingError, UsageError
from advise_ray.storage import remote
from advise_ray.video.manifest import read_manifest

NODE_TIMEOUT_S = 120.0
POLL_S = 1.0
SAMPLED_VIDEOS = 3
NOT_SHARED = "storage.path is not shared: a file of the head"
Said = dict[str, Any]
OnLine = Callable[[str], None]


def await_nodes(hosts: tuple[str, ...], least_nodes: int, wait_s: float, on_line: OnLine) -> None:
    """Wait until the nodes of the cluster file have joined. After `wait_s`, name the missing nodes and continue.

    Args:
        hosts: host addresses of the cluster file; empty if it has none.
        least_nodes: minimum number of nodes.
    """
    deadline_s = time.monotonic() + wait_s
    reported = False
    while True:
        joined = {node["NodeManagerAddress"] for node in _alive()}
        missing = [host for host in hosts if host not in joined]
        if not missing and len(_alive()) >= least_nodes:
            on_line(f"{len(_alive())} node(s) have joined")
            return
        names = ", ".join(missing) or f"{least_nodes - len(_alive())} of {least_nodes}"
        if time.monotonic() > deadline_s:
            on_line(f"warning: nodes that have not joined within {wait_s:g} s: {names}; continuing without them")
            return
        if not reported:
            on_line(f"waiting for nodes: {names}")
            reported = True
        time.sleep(POLL_S)


@dataclass
class Newcomers:
    """Checks nodes that join after the preflight, each node once, before a run uses them."""

    paths: list[str]
    known: set[str]

    def __call__(self, node_ids: set[str]) -> None:
        """Raise ClusterError with every problem of the new nodes."""
        new = [node for node in _alive() if node["NodeID"] in node_ids - self.known]
        asked = {node["NodeID"]: _ask(node, self.paths) for node in new}
        if problems := _problems_of_nodes(new, asked, ""):
            raise ClusterError("\n".join(problems))
        self.known |= asked.keys()


def preflight(config: Config | None, on_line: OnLine, read: Sequence[str] = ()) -> Newcomers:
    """Check the cluster for a job of this configuration.

    Args:
        read: files and folders that all nodes read, in addition to those of the configuration.

    Returns:
        The check for nodes that join later.

    Raises:
        ClusterError: every problem, one line each.
        UsageError: the same, if `storage.path` is not shared.
    """
    nodes = _alive()
    needed = [*read, *(_needed(config) if config is not None else [])]
    marker = _write_marker(config) if config is not None and len(nodes) > 1 else None
    try:
        paths = [*needed, *([marker] if marker else [])]
        asked = {node["NodeID"]: _ask(node, paths) for node in nodes}
        problems = _problems_of_nodes(nodes, asked, str(marker))
    finally:
        if marker:
            Path(marker).unlink(missing_ok=True)
    if config is not None:
        try:
            tracking.check(config)
        except (TrackingError, UsageError) as error:
            problems.append(str(error))
    if problems:
        unshared = any(NOT_SHARED in problem for problem in problems)
        raise (UsageError if unshared else ClusterError)("\n".join(problems))
    on_line(f"preflight: {len(nodes)} node(s) agree on versions and can read all needed files")
    return Newcomers([*needed, *([config.storage.path] if config is not None else [])], set(asked))


def _alive() -> list[Said]:
    return [node for node in ray.nodes() if node["Alive"]]


def _ask(node: Said, paths: list[str]) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(_inspect_node).options(num_cpus=0, scheduling_strategy=strategy).remote(paths)


def _inspect_node(paths: list[str]) -> Said:
    """Runs on a node: reports its package versions and which paths it cannot read."""
    unreachable = {}
    for path in paths:
        try:
            if remote.is_url(path):
                with remote.open_random(path) as file:
                    file.read(1)
            elif not os.access(path, os.R_OK):
                unreachable[path] = "cannot be read" if Path(path).exists() else "does not exist"
        except (AdviseRayError, OSError) as error:
            unreachable[path] = str(error)
    return {"versions": versions(), "unreachable": unreachable}


def versions() -> dict[str, str]:
    """Versions of Python and of this package's requirements; `none` for a missing package.

    The CPU and CUDA builds of torch count as one version, so that nodes without a GPU can use the smaller build.
    """
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "machine": platform.machine()}
    for requirement in packages.requirements():
        found[requirement.name] = "none"
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[requirement.name] = packages.release(requirement.name)
    return found


def _problems_of_nodes(nodes: list[Said], asked: dict[str, Any], marker: str) -> list[str]:
    here = versions()
    problems = [
        f"head: {each.name} {here[each.name]}, but advise-ray needs {each}; install it on the head"
        for each in packages.requirements()
        if here[each.name] == "none" or not each.specifier.contains(here[each.name], prereleases=True)
    ]
    for node in nodes:
        address = node["NodeManagerAddress"]
        try:
            said = ray.get(asked[node["NodeID"]], timeout=NODE_TIMEOUT_S)
        except Exception as error:
            reason = str(error).strip().splitlines()[-1][:300]
            problems.append(f"node {address}: cannot run advise-ray's code: {reason}")
            continue
        problems += [
            f"node {address}: {name} {there}, the head has {here[name]}; install the same on both"
            for name, there in said["versions"].items()
            if there != here[name]
        ]
        for path, reason in said["unreachable"].items():
            what = NOT_SHARED if path == marker else path
            problems.append(f"node {address}: {what} {reason}; all nodes need it at the same path")
    return problems


def _needed(config: Config) -> list[str]:
    """Paths that all nodes must read: some of the videos, or the feature cache."""
    if config.data.features is not None:
        return [] if remote.is_url(config.data.features) else [config.data.features]
    return some_videos(config.data.manifests)


def some_videos(manifests: Sequence[Path]) -> list[str]:
    """Paths or URLs of a few videos, spread over the manifests.

    Raises:
        UsageError: a file is not a manifest.
    """
    paths = pa.concat_tables([read_manifest(path).select(["path"]) for path in manifests]).column("path")
    step = max(1, len(paths) // SAMPLED_VIDEOS)
    return [paths[place].as_py() for place in range(0, len(paths), step)[:SAMPLED_VIDEOS]]


def _write_marker(config: Config) -> str:
    folder = Path(config.storage.path)
    marker = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise ClusterError(f"storage.path: the head cannot write {folder}: {error.strerror}") from None
    return str(marker)
