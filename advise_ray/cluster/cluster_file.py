"""Cluster files: the YAML that Ray's launcher takes, or the address of a cluster that somebody else keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from advise_ray.backend.nodes import growth_of, head_of
from advise_ray.backend.resources import Growth, Node, share_cpus
from advise_ray.config import Config
from advise_ray.errors import ConfigError, UsageError
from advise_ray.storage.remote import is_url


@dataclass(frozen=True)
class Address:
    """A cluster that is there; nothing is started or taken down."""

    address: str
    """`http://` or `https://` of the job server (the dashboard's), or `auto` on one of the cluster's machines."""


@dataclass(frozen=True)
class Launcher:
    """A cluster that Ray's launcher brings up and takes down."""

    path: Path
    name: str
    hosts: tuple[str, ...]
    """Those that the file names, the head first; none where a cloud chooses them."""
    least_nodes: int
    """The head and all `min_workers`."""
    ssh: tuple[str, ...]
    """The options and the user's name that SSH reaches its nodes by."""
    mounts: tuple[Path, ...] = ()
    """Files and folders of this machine that its nodes get a copy of."""
    head: Node = (0.0, 0.0)
    growth: Growth | None = None
    """What its autoscaler may bring; None where the file does not say it."""


def read_cluster(path: Path) -> Address | Launcher:
    """Read and check a cluster file.

    Raises:
        UsageError: it cannot be read, or is neither kind.
        ConfigError: every problem that the launcher's schema finds.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"--cluster: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--cluster: {path} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(tree, dict) and set(tree) == {"address"}:
        return _address(path, tree["address"])
    if not isinstance(tree, dict) or not {"cluster_name", "provider"} <= set(tree):
        raise UsageError(
            f"--cluster: {path} is not a cluster: it needs cluster_name and provider (a file of `ray up`), or address "
            "alone (http://HOST:8265, or auto)"
        )
    return _launcher(path, tree)


def _address(path: Path, address: Any) -> Address:
    if address == "auto" or str(address).startswith(("http://", "https://")):
        return Address(str(address))
    raise UsageError(
        f"--cluster: {path}: address {address!r} is no job server; give http://HOST:8265 (the dashboard's), or auto"
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
    """Raise UsageError for a configuration that asks for more than the cluster may ever have."""
    if cluster.growth is None:
        return
    decodes = config.data.features is None or is_url(config.data.features)
    try:
        share_cpus(config, [cluster.head], cluster.growth, decodes=decodes)
    except UsageError as error:
        raise UsageError(f"--cluster: {cluster.path}: {error}") from None


def schema_problems(tree: dict[str, Any]) -> list[str]:
    """What Ray's launcher would not take, a line for each: key, and what is wrong with it."""
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    found = jsonschema.Draft7Validator(schema).iter_errors(tree)
    problems = [f"{'.'.join(map(str, error.absolute_path)) or 'file'}: {error.message}" for error in found]
    provider, types = tree.get("provider") or {}, tree.get("available_node_types") or {}
    if isinstance(provider, dict) and provider.get("type") == "local" and "coordinator_address" not in provider:
        missing = {"head_ip", "worker_ips"} - set(provider)
        problems += [f"provider.{key}: required by type local" for key in sorted(missing)]
    if types and tree.get("head_node_type") not in types:
        problems.append(f"head_node_type: must be one of {', '.join(types)}")
    return problems
