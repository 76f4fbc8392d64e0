"""Ray heads for tests: on this machine, or on hosts that are made of network namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.runs import eventually

BIN = Path(sys.executable).parent
PATH = f"{BIN}:{os.environ['PATH']}"


def ray_command(*arguments: str) -> list[str]:
    """Ray's own command, of this Python."""
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def free_port() -> int:
    with contextlib.closing(socket.socket()) as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


@contextlib.contextmanager
def running_head(num_cpus: int, *options: str) -> Iterator[str]:
    """A cluster of one node that is not this process's; the address of its job server."""
    temp, port = tempfile.mkdtemp(prefix="ray-", dir="/tmp"), free_port()  # short: sockets' paths are limited
    command = [*ray_command("start"), "--head", "--block", f"--port={free_port()}", f"--temp-dir={temp}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # jobs go through it; its usual port is another Ray's
    command += [f"--dashboard-port={port}", f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1", *options]
    env = {**os.environ, "PATH": PATH}
    env.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        eventually(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # SIGTERM would drain the node for half a minute
        process.wait()
        shutil.rmtree(temp, ignore_errors=True)


def answers(port: int) -> bool:
    """Whether a job server is there."""
    import requests

    try:
        requests.get(f"http://127.0.0.1:{port}/api/version", timeout=2)  # without a token: 401
    except requests.RequestException:
        return False
    return True
