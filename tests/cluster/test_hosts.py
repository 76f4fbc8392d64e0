"""`--cluster` with a launcher's file: from `ray up` on two hosts to `ray down`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.hosts import Hosts, running_hosts, why_not

pytestmark = pytest.mark.full
ONPREM = Path(__file__).parents[2] / "cluster" / "onprem.yaml"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if (lacking := why_not(tmp_path_factory.mktemp("tried"))) is not None:
        pytest.skip(f"{lacking}; test_ray_job.py and test_elastic.py use raylets of one host")
    with running_hosts(tmp_path_factory.mktemp("hosts"), 2) as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of who gives the commands, with a token for Ray."""
    path = tmp_path_factory.mktemp("home")
    (path / ".ray").mkdir()
    (path / ".ray" / "auth_token").write_text("5" * 64)
    return path


def onprem(tmp_path: Path, hosts: Hosts, **changes: object) -> Path:
    """The file that comes with the project, for these hosts."""
    tree = yaml.safe_load(ONPREM.read_text())
    head, *workers = hosts.addresses
    tree["provider"] |= {"head_ip": head, "worker_ips": workers}
    tree["auth"] = {"ssh_user": hosts.user, "ssh_private_key": str(hosts.key)}
    tree["cluster_name"] = f"test-{tmp_path.name}"
    path = tmp_path / "onprem.yaml"
    path.write_text(yaml.safe_dump(tree | changes, sort_keys=False))
    return path


def advise_ray(*arguments: str, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HOME": str(home)}
    env.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "advise_ray", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=500)


def test_from_up_to_down(hosts: Hosts, home: Path, manifest: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    from advise_ray.config import load, to_yaml

    recipe = tmp_path / "recipe.yaml"
    own = (
        "tracking.run_name=there",
        "train.num_workers=2",
        f"data.manifest={manifest}",
        f"storage.path={tmp_path}/runs",
    )
    recipe.write_text(to_yaml(load(None, [*tiny, *own])))
    path = onprem(tmp_path, hosts)
    done = advise_ray(
        "train", "--config", str(recipe), "--cluster", str(path), "--down", "--json", home=home, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["status"] == "FINISHED"
    assert "preflight: 2 node(s) agree" in done.stderr
    assert result["tracking_complete"]
    left = subprocess.run(["pgrep", "-fa", f"node-ip-address={hosts.addresses[0]}"], capture_output=True, text=True)
    assert left.stdout == ""


def test_a_wrong_key_is_told_in_a_line(hosts: Hosts, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    path = onprem(tmp_path, hosts, auth={"ssh_user": hosts.user, "ssh_private_key": str(other)})
    done = advise_ray("data", "check", "x.parquet", "--cluster", str(path), home=home, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: SSH cannot reach {hosts.addresses[0]}: ")
    assert "Permission denied" in line
