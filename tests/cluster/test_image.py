"""The steps of cluster/Dockerfile, run in a temporary copy of this machine's files, without an image."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from advise_ray.backend import packages

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
PINNED = [
    Requirement(line) for line in (ROOT / "cluster" / "constraints.txt").read_text().splitlines() if line[0] != "#"
]


def test_the_image_has_a_version_of_everything_that_fits() -> None:
    pinned = {packages.canonicalize_name(each.name): each.specifier for each in PINNED}
    for each in packages.requirements():
        (pin,) = pinned[packages.canonicalize_name(each.name)]
        assert pin.operator == "=="
        assert each.specifier.contains(pin.version), f"{each} is pinned at {pin.version}"
    assert packages.NAME not in pinned  # it is what the image is built from


def test_what_is_pinned_needs_nothing_that_is_not() -> None:
    """As far as the same versions are installed here."""
    pinned = {packages.canonicalize_name(each.name): each for each in PINNED}
    for line in packages.constraints():
        name, version = line.split("==")
        if name in pinned and pinned[name].specifier.contains(version):
            missing = {packages.canonicalize_name(each.name) for each in packages.requirements(name)} - pinned.keys()
            assert not missing, f"{name} {version}"


def steps(context: Path) -> str:
    """The Dockerfile as a script of bash, on a machine that has what its base image has."""
    script, user, shell = ["set -euo pipefail"], "", ["/bin/sh", "-c"]
    for step in DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes())).structure:
        value = step["value"]
        match step["instruction"]:
            case "ARG" | "ENV":
                script.append(f"export {value}")
            case "WORKDIR":
                script.append(f"mkdir -p {value} && cd {value}")
            case "COPY":
                *sources, target = value.split()
                for source in (context / source for source in sources):  # of a folder, what is in it
                    into = f"mkdir -p {target} && cp -r {source}/." if source.is_dir() else f"cp {source}"
                    script.append(f"{into} {target}")
            case "SHELL":
                shell = json.loads(value)
            case "USER":
                uid, gid = value.split(":")
                user = f"setpriv --reuid {uid} --regid {gid} --clear-groups env HOME=/home/ray"
            case "RUN":
                script.append(f"{user} {shlex.join([*shell, value])}")
            case "COMMENT" | "FROM":
                pass
            case other:
                raise AssertionError(f"{other} is not known here")
    return "\n".join(script)


@pytest.fixture
def thrown_away(tmp_path: Path) -> list[str]:
    """What to begin a command with, so that it works on a copy of this machine's files, as root in a container does."""
    for folder in ("own", "work", "all"):
        (tmp_path / folder).mkdir()
    inside = (
        f"mount -t overlay overlay -o lowerdir=/,upperdir={tmp_path}/own,workdir={tmp_path}/work {tmp_path}/all && "
        f"mount --rbind /dev {tmp_path}/all/dev && mount -t proc proc {tmp_path}/all/proc && "
        f'exec chroot {tmp_path}/all "$@"'
    )
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside, "sh"]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a copy of this machine's files needs unshare, and root")
    if (tried := subprocess.run([*command, "true"], capture_output=True, text=True)).returncode:
        pytest.skip(f"the kernel refuses: {tried.stderr.strip()}")
    return command


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What of the repository goes into a build, with the versions that are installed here: others would be fetched."""
    folder = tmp_path / "context"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("advise_ray", "jobs", "cluster"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cluster" / "constraints.txt").write_text("\n".join(packages.constraints()))
    return folder


BASE = f"""
set -euo pipefail
{sys.executable} -m venv --without-pip /usr/local/base
{sys.executable} -c 'import sys; print(*(path for path in sys.path if path.endswith("site-packages")), sep="\\n")' \\
  > "$(echo /usr/local/base/lib/python*/site-packages)/here.pth"
printf '#!/bin/sh\\nexec python -m pip "$@"\\n' > /usr/local/base/bin/pip
printf '#!/bin/sh\\nexec python -m ray.scripts.scripts "$@"\\n' > /usr/local/base/bin/ray
chmod +x /usr/local/base/bin/pip /usr/local/base/bin/ray
chmod a+rx /root
! id 1000 > /dev/null 2>&1 || userdel "$(id --name --user 1000)"
export PATH=/usr/local/base/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
"""What python:3.11-slim has: python, pip, no user 1000. Here they see the packages of this environment."""


@pytest.mark.full
def test_the_steps_leave_a_node_that_is_not_root(thrown_away: list[str], context: Path) -> None:
    user = "setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/ray"
    asked = (
        "import advise_ray, os, ray.autoscaler._private.kuberay.run_autoscaler; print(advise_ray.__file__, os.getuid())"
    )
    checks = f"cd / && {user} python -c {shlex.quote(asked)} && {user} advise-ray config show --config quickstart"
    script = f"{BASE}\n{steps(context)}\n{checks}\n"
    done = subprocess.run([*thrown_away, "bash", "-c", script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "/usr/local/base/" in done.stdout.split("advise_ray/__init__.py 1000")[0].splitlines()[-1]
    assert "timm:tf_efficientnet_lite0" in done.stdout
    assert not Path("/usr/local/base").exists()
