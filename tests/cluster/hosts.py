"""Two hosts on one machine: network namespaces on a bridge, each with its own sshd, processes, home and /tmp/ray."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.runs import eventually

NETWORK, BRIDGE = "10.77.0", "advise-br"
NEEDED = ("ip", "unshare", "sshd", "ssh", "ssh-keygen", "rsync")
WAIT_S = 20.0


@dataclass(frozen=True)
class Hosts:
    """How to reach them."""

    addresses: tuple[str, ...]
    key: Path
    user: str = "root"


def why_not(folder: Path) -> str | None:
    """What this machine lacks for it: tools, or a kernel that takes namespaces, bridges and a home over a home."""
    if os.geteuid() != 0:
        return "namespaces need root"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if missing := [name for name in NEEDED if shutil.which(name, path=path) is None]:
        return f"not installed: {', '.join(missing)} (apt-get install -y openssh-server iproute2 rsync)"
    (folder / "own").mkdir()
    (folder / "work").mkdir()
    try_all = f"ip link add tried type bridge && {_over_home(folder)}"
    command = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "sh", "-c", try_all]
    tried = subprocess.run(command, check=False, capture_output=True, env={**os.environ, "PATH": path})
    return None if tried.returncode == 0 else f"the kernel refuses namespaces: {tried.stderr.decode().strip()}"


def _over_home(folder: Path) -> str:
    """This machine's home, which may hold the Python that runs, with what is written to it in `folder`."""
    return f"mount -t overlay overlay -o lowerdir=$HOME,upperdir={folder}/own,workdir={folder}/work $HOME"


@contextlib.contextmanager
def running_hosts(folder: Path, count: int) -> Iterator[Hosts]:
    """Hosts 10.77.0.11, .12, …, that the key in `folder` opens."""
    key = folder / "key"
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    with contextlib.ExitStack() as stack:
        _try("ip", "link", "del", BRIDGE)
        _do("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(_do, "ip", "link", "del", BRIDGE)
        _do("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _do("ip", "link", "set", BRIDGE, "up")
        addresses = tuple(stack.enter_context(_host(folder, number, key)) for number in range(count))
        for address in addresses:
            eventually(lambda address=address: _has_sshd(address), WAIT_S)
        yield Hosts(addresses, key)


@contextlib.contextmanager
def _host(folder: Path, number: int, key: Path) -> Iterator[str]:
    name, address = f"advise-h{number}", f"{NETWORK}.{11 + number}"
    home = folder / name
    for own in ("own", "work"):
        (home / own).mkdir(parents=True)
    (home / "own" / ".bashrc").write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
    (home / "own" / ".profile").write_text(". ~/.bashrc\n")
    _try("ip", "link", "del", f"{name}-out")  # of a test that was killed
    _try("ip", "netns", "del", name)
    _do("ip", "netns", "add", name)
    process = None
    try:
        _do("ip", "link", "add", f"{name}-out", "type", "veth", "peer", "name", "eth0", "netns", name)
        _do("ip", "link", "set", f"{name}-out", "master", BRIDGE, "up")
        _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _do("ip", "-n", name, "link", "set", "eth0", "up")
        _do("ip", "-n", name, "link", "set", "lo", "up")
        _do("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.1")
        process = _sshd(name, home, key)
        yield address
    finally:
        if process is not None:
            process.send_signal(signal.SIGKILL)  # the first process of its PID namespace: all others go with it
            process.wait()
        _try("ip", "link", "del", f"{name}-out")
        _do("ip", "netns", "del", name)


def _sshd(name: str, home: Path, key: Path) -> subprocess.Popen[bytes]:
    host_key, authorized = home / "host_key", home / "authorized"
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
    authorized.write_text(key.with_suffix(".pub").read_text())
    settings = {
        "HostKey": host_key,
        "AuthorizedKeysFile": authorized,
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "MaxStartups": "100",
        "Subsystem": "sftp internal-sftp",
    }
    (home / "sshd_config").write_text("".join(f"{option} {value}\n" for option, value in settings.items()))
    inside = (
        f"{_over_home(home)} && mkdir -p /tmp/ray /run/sshd && "
        "mount -t tmpfs tmpfs /tmp/ray && "
        f"exec $(command -v sshd) -D -f {home}/sshd_config -E {home}/sshd.log"
    )
    command = ["ip", "netns", "exec", name, "unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    return subprocess.Popen([*command, "sh", "-c", inside], env=env, start_new_session=True)


def _has_sshd(address: str) -> bool:
    try:
        socket.create_connection((address, 22), timeout=1).close()
    except OSError:
        return False
    return True


def _try(*command: str) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):
        _do(*command)


def _do(*command: str) -> None:
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run(command, check=True, env=env, capture_output=True)
