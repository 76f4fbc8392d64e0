"""Cluster files: a YAML file for Ray's launcher, or the address of a cluster that somebody else runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from advise_ray.backend.nodes import growth_of, head_of
from advise_ray.backend.processes import Growth, Node
from advise_ray.backend.shares import share_cpus
from advise_ray.config import Config
from advise_ray.errors import ConfigError, UsageError
from advise_ray.storage.remote import is_url


@dataclass(frozen=True)
class Address:
    """An existing cluster. It is neither started nor taken down."""

    address: str
    """`http://` or `https://` address of the job server (the dashboard), or `auto` on one of the cluster's machines."""


@dataclass(frozen=True)
class Launcher:
    """A cluster that Ray's launcher starts and takes down."""

    path: Path
    name: str
    hosts: tuple[str, ...]
    """Addresses of the hosts in the file, the head first. Empty if a cloud chooses the hosts."""
    least_nodes: int
    """Minimum number of nodes: the head and all `min_workers`."""
    ssh: tuple[str, ...]
    """SSH options for its nodes: the key and the user name."""
    mounts: tuple[Path, ...] = ()
    """Files and folders of this machine that are copied to its nodes."""
    head: Node = (0.0, 0.0)
    growth: Growth | None = None
    """Nodes that its autoscaler can add; None if the file does not define them."""


def read_cluster(path: Path) -> Address | Launcher:
    """Read and check a cluster file.

    Raises:
        UsageError: the file cannot be read, or is neither kind of cluster file.
        ConfigError: every problem that the launcher's schema finds.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--cluster: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--cluster: {path} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(tree, dict) and set(tree) == {"address"}:
        return _address(path, tree["address"])
    if not isinstance(tree, dict) or not {"cluster_name", "provider"} <= set(tree):
        raise UsageError(
            f"--cluster: {path} is not a cluster file: it needs cluster_name and provider (a file for `ray up`), or "
            "only address (http://HOST:8265, or auto)"
        )
    return _launcher(path, tree)


def _address(path: Path, address: Any) -> Address:
    if address == "auto" or str(address).startswith(("http://", "https://")):
        return Address(str(address))
    raise UsageError(
        f"--cluster: {path}: address {address!r} is not a job server; give http://HOST:8265 (the dashboard), or auto"
    )


def _launcher(path: Path, tree: dict[str, Any]) -> Launcher:
    if problems := schema_problems(tree):
        raise ConfigError([f"--cluster: {path}: {problem}" for problem in problems])
    provider = tree["provider"]
    hosts: tuple[str, ...] = ()
    if provider["type"] == "local" and "head_ip" in provider:
        hosts = (str(provider["head_ip"]), *map(str, provider.get("worker_ips") or ()))
    types = (tree.get("available_node_types") or {}).items()
    workers = sum(kind.get("min_workers", 0) for name, kind in types if name != tree.get("head_node_type"))
    auth = tree.get("auth") or {}
    key = ("-i", str(Path(auth["ssh_private_key"]).expanduser())) if "ssh_private_key" in auth else ()
    ssh = (*key, "-l", str(auth["ssh_user"])) if "ssh_user" in auth else key
    mounts = tuple(Path(local).expanduser() for local in (tree.get("file_mounts") or {}).values())
    growth = None if provider["type"] == "local" else growth_of(tree)
    name, least = str(tree["cluster_name"]), len(hosts) or 1 + workers
    return Launcher(path.absolute(), name, hosts, least, ssh, mounts, head_of(tree), growth)


def refuse_impossible(cluster: Launcher, config: Config) -> None:
    """Raise UsageError if the configuration needs more resources than the cluster can ever have."""
    if cluster.growth is None:
        return
    decodes = config.data.features is None or is_url(config.data.features)
    try:
        share_cpus(config, [cluster.head], cluster.growth, decodes=decodes)
    except UsageError as error:
        raise UsageError(f"--cluster: {cluster.path}: {error}") from None


def schema_problems(tree: dict[str, Any]) -> list[str]:
    """Problems for which Ray's launcher would refuse the file, one line each: the key and the reason."""
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    found = jsonschema.Draft7Validator(schema).iter_errors(tree)
    problems = [f"{'.'.join(map(str, error.absolute_path)) or 'file'}: {error.message}" for error in found]
    provider, types = tree.get("provider") or {}, tree.get("available_node_types") or {}
    if isinstance(provider, dict) and provider.get("type") == "local" and "coordinator_address" not in provider:
        missing = {"head_ip", "worker_ips"} - set(provider)
        problems += [f"provider.{key}: required by type local" for key in sorted(missing)]
    if types and tree.get("head_node_type") not in types:
        problems.append(f"head_node_type: must be one of {', '.join(types)}")
    return problems
