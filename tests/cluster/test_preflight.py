"""The preflight check finds a node that differs from the head, on two real nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from advise_ray.backend import session
from advise_ray.cluster.preflight import preflight
from advise_ray.config import Config, load
from advise_ray.errors import ClusterError, UsageError
from tests.cluster.heads import BIN, free_port
from tests.runs import eventually

pytestmark = pytest.mark.full

SECOND = "127.0.0.2"


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The head's own address, which this process is a driver of."""
    connected = ray.is_initialized()  # to the Ray of the whole test session
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 128 << 20})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()
        if connected:
            session.connect()


@contextlib.contextmanager
def second_node(head: str, *before: str, **env: str) -> Iterator[None]:
    command = [str(BIN / "ray"), "start", f"--address={head}", f"--node-ip-address={SECOND}", "--num-cpus=1", "--block"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(
        [*before, *command],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: SECOND in alive())
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: SECOND not in alive())


def alive() -> set[str]:
    return {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def config_in(folder: Path) -> Config:
    return load(None, [f"storage.path={folder}"])


def test_a_node_with_another_version_is_named_with_both(head: str, tmp_path: Path) -> None:
    other = tmp_path / "site" / "click-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: click\nVersion: 0.0.1\n")
    with second_node(head, PYTHONPATH=str(other.parent)), pytest.raises(ClusterError) as raised:
        preflight(config_in(tmp_path / "runs"), print)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"node {SECOND}: click 0.0.1, the head has 8.")
    assert line.endswith("; install the same on both")


def test_storage_that_a_node_does_not_see_is_told(head: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with second_node(head, *hiding(tmp_path / "runs")), pytest.raises(UsageError) as raised:
        preflight(config_in(tmp_path / "runs"), print)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"node {SECOND}: storage.path is not shared: a file of the head does not exist")
    assert not list((tmp_path / "runs").glob(".preflight-*"))


def test_videos_to_index_that_a_node_does_not_see_are_told(head: str, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "walking").mkdir(parents=True)
    with second_node(head, *hiding(tmp_path)):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "advise_ray.cli.on_head", "{}", "data", "index", "--format", "folder"),
                *("--videos", str(videos), "--out", str(tmp_path / "clips.parquet")),
            ],
            env={**os.environ, "RAY_ADDRESS": head},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"error: node {SECOND}: {videos} does not exist; all nodes need it at the same path\n" in done.stderr


def hiding(folder: Path) -> list[str]:
    """What to begin a command with, so that it sees nothing in a folder."""
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*hide, "true"], capture_output=True).returncode != 0:
        pytest.skip("a node cannot have a file system of its own here: unshare and mount need root")
    return hide
