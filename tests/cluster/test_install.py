"""How this package is installed on nodes: from this machine, and never by its name from an index."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from advise_ray.cluster import shipment
from advise_ray.cluster.cluster_file import read_cluster
from advise_ray.cluster.launcher import bring_up
from advise_ray.errors import UsageError

ROOT = Path(__file__).parents[2]
BY_NAME = re.compile(r"""\bpip3? install\b[^\n`]*(?:\s|['"])advise[-_]ray(?![-\w]*\.whl|[-/\w])""")
WRITTEN = [
    path
    for folder in ("cluster", "jobs", "advise_ray")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in ("", ".md", ".py", ".sbatch", ".yaml") and path.is_file()
]


@pytest.mark.parametrize(
    "line", ["pip install advise-ray boto3", "pip install 'advise-ray[onnx]'", "pip install advise_ray"]
)
def test_what_is_looked_for(line: str) -> None:
    assert BY_NAME.search(line)


def test_nothing_installs_the_name_from_an_index() -> None:
    found = [path for path in [ROOT / "README.md", *WRITTEN] if BY_NAME.search(path.read_text())]
    assert not found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nodes") / "install"
    shipment.install_from(path)
    return path


def test_what_nodes_install_is_the_same_each_time(folder: Path) -> None:
    """The launcher sets nodes up anew, and restarts their Ray, where what it mounts has changed."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "advise_ray-0.0.1-py3-none-any.whl").touch()
    shipment.install_from(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    wheel, *_ = [name for name in before if name.endswith(".whl")]
    assert before["requirements.txt"].decode() == f"--constraint constraints.txt\n./{wheel}\n"
    pins = before["constraints.txt"].decode().split()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.!]+", pin) for pin in pins)  # no +cpu: no index has that
    assert {"ray", "torch", "nvidia-ml-py", "aiohttp"} <= {pin.split("==")[0] for pin in pins}


@pytest.mark.full
def test_a_node_that_has_installed_it_has_the_command(folder: Path, tmp_path: Path) -> None:
    """What it needs is here already; without an index nothing else could come."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = [venv / "bin" / "python", "-m", "pip", "install", "--no-index", "--requirement", "requirements.txt"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)
    shown = [venv / "bin" / "advise-ray", "config", "show", "--config", "quickstart"]
    assert "resnet3d" in subprocess.check_output(shown, cwd=tmp_path, text=True)
    where = [venv / "bin" / "python", "-c", "import advise_ray; print(advise_ray.__file__)"]
    assert str(site) in subprocess.check_output(where, cwd=tmp_path, text=True)


def test_the_wheel_is_whole(folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (record,) = [name for name in names if name.endswith("RECORD")]
        assert {row.split(",")[0] for row in archive.read(record).decode().splitlines()} == names
    assert {"advise_ray/cli/on_head.py", "advise_ray/py.typed", "advise_ray/jobs/quickstart.yaml"} <= names


@pytest.mark.parametrize("name", ["aws", "gcp", "onprem"])
def test_the_files_that_come_with_the_project_mount_it(name: str) -> None:
    tree = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
    assert tree["file_mounts"]["~/advise-ray"] == shipment.INSTALL


def test_what_nodes_are_to_get_and_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    path = tmp_path / "cluster.yaml"
    tree = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    tree["file_mounts"]["~/data"] = str(tmp_path / "nowhere")
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UsageError, match=f"{path}: no token in .*; make one: ray get-auth-token --generate"):
        bring_up(read_cluster(path), print)  # type: ignore[arg-type]
    token.parent.mkdir()
    token.write_text("\n")
    with pytest.raises(UsageError, match="no token"):
        bring_up(read_cluster(path), print)  # type: ignore[arg-type]
    token.write_text("5" * 64)
    with pytest.raises(UsageError, match=f"file_mounts: {tmp_path}/nowhere does not exist here"):
        bring_up(read_cluster(path), print)  # type: ignore[arg-type]
    assert list((tmp_path / ".cache" / "advise-ray" / "install").glob("*.whl"))
