"""A cluster that grows: a head with Ray's own autoscaler, whose provider starts raylets on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from tests.cluster.heads import PATH, free_port, ray_command
from tests.runs import eventually

PROVIDERS = f"{__name__}."
OBJECT_STORE_BYTES = 128 << 20
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class Provider(FakeMultiNodeProvider):
    """Ray's provider for its own tests: each node is a raylet."""


class Empty(FakeMultiNodeProvider):
    """Takes orders, and no node ever comes."""

    def _create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):
        with self.lock:
            self._nodes[self._next_hex_node_id()] = {"tags": tags, "node": None}

    def _terminate_node(self, node):
        pass


class SoldOut(FakeMultiNodeProvider):
    """Refuses to make nodes."""

    def create_node_with_resources_and_labels(self, *_):
        raise RuntimeError("InsufficientInstanceCapacity: there is none of this type")


@dataclass
class Growing:
    """A head that runs."""

    address: str

    @property
    def env(self) -> dict[str, str]:
        """Of commands that work there."""
        return {**os.environ, **TOKEN, "RAY_ADDRESS": self.address}

    def nodes(self) -> list[psutil.Process]:
        """The raylets of nodes that came."""
        port = self.address.rpartition(":")[2]
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            command = process.info["cmdline"] or []
            head = any(part.startswith("--head") for part in command)
            if process.info["name"] == "raylet" and not head and f"--gcs-address=127.0.0.1:{port}" in command:
                found.append(process)
        return found


@contextlib.contextmanager
def growing(
    head_cpus: int, types: dict[str, dict[str, Any]], *, idle_s: float = 8.0, provider: type = Provider
) -> Iterator[Growing]:
    """`types`: name → resources, and `max_workers`."""
    temp, port = tempfile.mkdtemp(prefix="ray-", dir="/tmp"), free_port()
    config = cluster_file(head_cpus, types, provider=provider, gcs_address=f"127.0.0.1:{port}", idle_s=idle_s)
    path = Path(temp) / "autoscaling.json"
    path.write_text(json.dumps(config))
    command = [*ray_command("start"), "--head", "--block", f"--port={port}", f"--temp-dir={temp}"]
    command += [f"--autoscaling-config={path}", f"--num-cpus={head_cpus}", "--node-ip-address=127.0.0.1"]
    command += ["--include-dashboard=false", f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--num-gpus=0"]
    env = {**os.environ, **TOKEN, "PATH": PATH, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_FAKE_CLUSTER": "1"}
    env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
    env |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    env["RAY_NODE_TYPE_NAME"] = FAKE_HEAD_NODE_TYPE  # as launchers do; without it all hangs on who is first (2.60)
    env.pop("RAY_ADDRESS", None)
    log = Path(temp) / "head.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    cluster = Growing(f"127.0.0.1:{port}")
    try:
        try:
            eventually(lambda: "Ray runtime started" in log.read_text(), alive=process)
        except AssertionError as error:
            raise AssertionError(f"{error}: {log.read_text()}") from None
        yield cluster
        assert process.poll() is None, log.read_text()
    finally:
        left = cluster.nodes()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for node in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                node.kill()
        shutil.rmtree(temp, ignore_errors=True)


def cluster_file(
    head_cpus: int, types: dict[str, dict[str, Any]], *, provider: type, gcs_address: str, idle_s: float
) -> dict[str, Any]:
    """All that Ray's autoscaler asks for."""
    kinds: dict[str, dict[str, Any]] = {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    }
    for name, kind in types.items():
        limit = kind.get("max_workers", 4)
        resources = {key: value for key, value in kind.items() if key != "max_workers"}
        resources["object_store_memory"] = OBJECT_STORE_BYTES
        kinds[name] = {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": limit}
    return {
        "cluster_name": "growing",
        "max_workers": 8,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_s / 60,
        "docker": {},
        "provider": {
            "type": "external",
            "module": PROVIDERS + provider.__name__,
            "gcs_address": gcs_address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "auth": {},
        "available_node_types": kinds,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
