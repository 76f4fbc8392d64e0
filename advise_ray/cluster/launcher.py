"""Runs Ray's launcher: starts a cluster, opens an SSH tunnel to its job server, takes the cluster down."""

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
    """Run `ray up`. It changes nothing on a cluster that already matches its file.

    Raises:
        UsageError: a file or folder that the nodes need does not exist on this machine.
        ClusterError: SSH cannot reach a host of the file (this is checked first, because the launcher would retry for
            five minutes); or the launcher fails, with the last lines of its output.
    """
    installed = Path(shipment.INSTALL).expanduser()
    if installed in cluster.mounts:
        shipment.install_from(installed)
    for local in cluster.mounts:
        _check_mount(cluster, local)
    for host in cluster.hosts:
        _check_ssh(cluster, host)
    _ray(cluster, "up", "--yes", "--no-config-cache", on_line=on_line)


def take_down(cluster: Launcher, on_line: OnLine) -> None:
    """Run `ray down`.

    Raises:
        ClusterError: the launcher fails. Some machines can still be running and cost money.
    """
    _ray(cluster, "down", "--yes", on_line=on_line)


def head_address(cluster: Launcher) -> str | None:
    """The launcher's address of the head; None if there is no head yet."""
    command = [_ray_command(), "get-head-ip", str(cluster.path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (Ray's own tool)
    lines = found.stdout.split()
    return lines[-1] if found.returncode == 0 and lines else None


@contextlib.contextmanager
def tunnel(cluster: Launcher) -> Iterator[str]:
    """Open an SSH tunnel and yield the local address of the head's job server. The cluster opens no port.

    Raises:
        ClusterError: SSH cannot reach the head.
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
        start_new_session=True,  # Ctrl-C must not end the tunnel, because it is needed to stop the job
    )
    try:
        _await_port(cluster, process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()


def _check_mount(cluster: Launcher, local: Path) -> None:
    """Refuse a missing mount now. The launcher would fail only after machines are running."""
    is_token = local == Path(auth_token.TOKEN).expanduser()
    if is_token and not (local.is_file() and local.read_text(encoding="utf-8").strip()):
        raise UsageError(
            f"{cluster.path}: no token in {auth_token.TOKEN}, but the cluster needs one; make one: ray get-auth-token "
            "--generate"
        )
    if not local.exists():
        raise UsageError(f"{cluster.path}: file_mounts: {local} does not exist here; correct it or remove it")


def _check_ssh(cluster: Launcher, host: str) -> None:
    options = ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", f"ConnectTimeout={SSH_WAIT_S}"]
    options += [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]  # the same options as Ray's
    command = ["ssh", *options, *cluster.ssh, host, "true"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (of the user's own file)
    if said.returncode:
        raise ClusterError(
            f"{cluster.path}: SSH cannot reach {host}: {_tail(said.stderr)}; check its address, auth.ssh_user and "
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
            f"{cluster.path}: cannot reach the head's job server within {TUNNEL_WAIT_S:g} s; check whether Ray runs on "
            f"the head: ray exec {cluster.path} 'ray status'"
        )
    said = process.stdout.read() if process.stdout else ""
    raise ClusterError(
        f"{cluster.path}: SSH cannot reach the head: {_tail(said)}; check auth.ssh_user and auth.ssh_private_key"
    )


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
    """Path of this installation's `ray` command, even if its folder is not on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "ray"
    return str(beside) if beside.is_file() else shutil.which("ray") or f"{sys.prefix}/bin/ray"


def _tail(text: str) -> str:
    """The last three non-empty lines, joined to one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "no output"
