"""A Slurm of two nodes on one machine: munged, slurmctld and two slurmd, without systemd and cgroups."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.heads import free_port
from tests.runs import eventually

NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "unshare")
ENV = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
CONF = """
ClusterName=advise-test
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
NodeName=n1 NodeHostname={host} NodeAddr={address} Port={port_1} CPUs=4
NodeName=n2 NodeHostname={host} NodeAddr={address} Port={port_2} CPUs=4
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """How to reach it; `unshared` is a folder of which each node sees a content of its own."""

    conf: Path
    unshared: Path

    def do(self, *command: str) -> str:
        """What a Slurm command says."""
        done = subprocess.run(command, env=ENV | {"SLURM_CONF": str(self.conf)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, script: Path, *arguments: str) -> str:
        """The job's id; its log is beside the script."""
        log = script.with_name("%j.log")
        return self.do(
            "sbatch", "--parsable", f"--chdir={script.parent}", f"--output={log}", str(script), *arguments
        ).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """JobState, ExitCode, Restarts, …"""
        return dict(re.findall(r"(\S+?)=(\S*)", self.do("scontrol", "show", "job", job_id)))


def why_not() -> str | None:
    """What this machine lacks for it."""
    if os.geteuid() != 0:
        return "Slurm's processes need root here"
    if missing := [name for name in NEEDED if shutil.which(name, path=ENV["PATH"]) is None]:
        return f"not installed: {', '.join(missing)} (apt-get install -y slurm-wlm munge)"
    return None


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets' paths are limited
    slurm = Slurm(folder / "slurm.conf", folder / "unshared")
    address = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()[0]
    ports = {"port": free_port(), "port_1": free_port(), "port_2": free_port()}
    slurm.conf.write_text(CONF.format(folder=folder, host=socket.gethostname().split(".")[0], address=address, **ports))
    for name in ("state", "spool-n1", "spool-n2", "unshared"):
        (folder / name).mkdir()
    hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {slurm.unshared} && exec "$@"', "sh"]
    munge = [f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    subprocess.run(["mungekey", "--create", f"--keyfile={folder}/munge.key"], check=True, env=ENV)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for command in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "n1"],
            [*hidden, "slurmd", "-D", "-N", "n2"],
        ):
            stack.enter_context(_process(command, slurm))
            if command[0] == "munged":
                eventually((folder / "munge.socket").exists, 20)
        eventually(lambda: slurm.do("sinfo", "--noheader", "--format=%T %D").split() == ["idle", "2"], 60)
        try:
            yield slurm
        finally:
            slurm.do("scancel", "--user=root")
            eventually(lambda: not slurm.do("squeue", "--noheader").strip(), 90)


@contextlib.contextmanager
def _process(command: list[str], slurm: Slurm) -> Iterator[None]:
    said = slurm.conf.with_name(f"{Path(command[0]).name}-{len(command)}.said").open("wb")
    env = ENV | {"SLURM_CONF": str(slurm.conf)}
    process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
