from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from advise_ray.cluster.cluster_file import Address, Launcher, read_cluster
from advise_ray.errors import AdviseRayError

FILES = Path(__file__).parents[2] / "cluster"
ONPREM = {"cluster_name": "mine", "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["onprem", "aws", "gcp"])
def test_rays_launcher_takes_the_files_that_come_with_the_project(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    path = FILES / f"{name}.yaml"
    assert isinstance(read_cluster(path), Launcher)
    validate_config(prepare_config(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize("name", ["onprem", "aws", "gcp"])
def test_a_shipped_cluster_opens_nothing_and_asks_for_a_token(name: str) -> None:
    text = (FILES / f"{name}.yaml").read_text()
    tree = yaml.safe_load(text)
    for command in (*tree["head_start_ray_commands"], *tree["worker_start_ray_commands"]):
        assert "ray stop" in command or "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text


def test_the_slurm_script_is_one() -> None:
    subprocess.run(["bash", "-n", str(FILES / "slurm.sbatch")], check=True)


def test_an_address_or_a_launchers_file(tmp_path: Path) -> None:
    assert read_cluster(FILES / "local.yaml") == Address("auto")
    assert read_cluster(written(tmp_path, "address: http://head:8265")) == Address("http://head:8265")
    path = written(tmp_path, yaml.safe_dump(ONPREM))
    assert read_cluster(path) == Launcher(path, "mine", ("10.0.0.1", "10.0.0.2"), 2, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("- 1\n- 2", "is not a cluster file: it needs cluster_name and provider"),
        ("address: ray://head:10001", "'ray://head:10001' is not a job server; give http://HOST:8265"),
        ("cluster_name: x\nprovider: {type: local}", "provider.head_ip: required by type local"),
        ("cluster_name: x\nprovider: {type: aws}\nmax_workers: many", "max_workers: 'many' is not of type 'integer'"),
        ("cluster_name: x\nprovider: {type: aws}\nmax_wokers: 2", "'max_wokers' was unexpected"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AdviseRayError) as raised:
        read_cluster(written(tmp_path, text))
    assert said in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(AdviseRayError, match=r"cannot read /nowhere\.yaml: No such file"):
        read_cluster(Path("/nowhere.yaml"))
