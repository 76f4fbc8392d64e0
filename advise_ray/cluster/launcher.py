"""Ray's launcher at work: bring a cluster up, reach its job server through SSH, take it down."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from advise_ray.backend import auth_token
from advise_ray.cluster import shipment
from advise_ray.cluster.cluster_file import Launcher
from advise_ray.errors import ClusterError, UsageError

JOB_SERVER_PORT = 8265
TUNNEL_WAIT_S = 30.0
POLL_S = 0.2
SSH_WAIT_S = 10
OnLine = Callable[[str], None]


def bring_up(cluster: Launcher, on_line: OnLine) -> None:
    """`ray up`, which changes nothing on a cluster that is as its file says.

    Raises:
        UsageError: what its nodes are to get is not on this machine.
        ClusterError: SSH does not reach a host that the file names (the launcher would try for five minutes); or the
            last lines of what the launcher said.
    """
    installed = Path(shipment.INSTALL).expanduser()
    if installed in cluster.mounts:
        shipment.install_from(installed)
    for local in cluster.mounts:
        _require(cluster, local)
    for host in cluster.hosts:
        _knock(cluster, host)
    _ray(cluster, "up", "--yes", "--no-config-cache", on_line=on_line)


def take_down(cluster: Launcher, on_line: OnLine) -> None:
    """`ray down`.

    Raises:
        ClusterError: as above; machines may be left, and cost money.
    """
    _ray(cluster, "down", "--yes", on_line=on_line)


def head_address(cluster: Launcher) -> str | None:
    """The address of the head as the launcher knows it; None where there is none yet."""
    command = [_ray_command(), "get-head-ip", str(cluster.path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (Ray's own tool)
    lines = found.stdout.split()
    return lines[-1] if found.returncode == 0 and lines else None


@contextlib.contextmanager
def tunnel(cluster: Launcher) -> Iterator[str]:
    """The head's job server at a port of 127.0.0.1, by SSH: the cluster opens no port for it.

    Raises:
        ClusterError: SSH does not reach the head.
    """
    with contextlib.closing(socket.socket()) as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = [_ray_command(), "dashboard", "--port", str(port), "--remote-port", str(JOB_SERVER_PORT)]
    process = subprocess.Popen(  # noqa: S603 (Ray's own tool)
        [*command, str(cluster.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for us: the job may be stopped through it
    )
    try:
        _await_port(cluster, process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()


def _require(cluster: Launcher, local: Path) -> None:
    """Refuse a mount that the launcher would fail at with machines already running."""
    is_token = local == Path(auth_token.TOKEN).expanduser()
    if is_token and not (local.is_file() and local.read_text().strip()):
        raise UsageError(
            f"{cluster.path}: no token in {auth_token.TOKEN} for it to ask for; make one: ray get-auth-token --generate"
        )
    if not local.exists():
        raise UsageError(f"{cluster.path}: file_mounts: {local} does not exist here; correct it, or leave it out")


def _knock(cluster: Launcher, host: str) -> None:
    options = ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", f"ConnectTimeout={SSH_WAIT_S}"]
    options += [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]  # as Ray
    command = ["ssh", *options, *cluster.ssh, host, "true"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (of the user's own file)
    if said.returncode:
        raise ClusterError(
            f"{cluster.path}: SSH does not reach {host}: {_tail(said.stderr)}; check its address, auth.ssh_user and "
            "auth.ssh_private_key"
        )


def _await_port(cluster: Launcher, process: subprocess.Popen[str], port: int) -> None:
    deadline_s = time.monotonic() + TUNNEL_WAIT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    if process.poll() is None:
        raise ClusterError(
            f"{cluster.path}: no tunnel to the head's job server within {TUNNEL_WAIT_S:g} s; is Ray running there? "
            f"See: ray exec {cluster.path} 'ray status'"
        )
    said = process.stdout.read() if process.stdout else ""
    raise ClusterError(f"{cluster.path}: SSH does not reach the head: {_tail(said)}; check auth.ssh_user and its key")


def _ray(cluster: Launcher, command: str, *options: str, on_line: OnLine) -> None:
    process = subprocess.Popen(  # noqa: S603 (Ray's own tool)
        [_ray_command(), command, *options, str(cluster.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        on_line(lines[-1])
    if process.wait():
        raise ClusterError(f"ray {command} {cluster.path} failed: {_tail(chr(10).join(lines))}")


def _ray_command() -> str:
    """The `ray` of this installation, whether or not its folder is on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "ray"
    return str(beside) if beside.is_file() else shutil.which("ray") or f"{sys.prefix}/bin/ray"


def _tail(text: str) -> str:
    """The last three lines that say something, as one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "no word"
