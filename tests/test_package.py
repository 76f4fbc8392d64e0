"""The installed wheel works without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's own files, without those that it depends on: these are here already."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "advise_ray", *arguments]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.full
def test_a_wheel_has_its_recipes_and_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    code = "from advise_ray.config import recipes; print(*recipes.shipped().values(), sep='\\n')"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True).split()
    assert all(Path(recipe).is_relative_to(installed) for recipe in found)
    assert {Path(recipe).name for recipe in found} == {recipe.name for recipe in (ROOT / "jobs").glob("*.yaml")}
    assert "quickstart" in run(installed, tmp_path, "config", "show", "--config", "quickstart")
    assert run(installed, tmp_path, "--version").startswith("advise-ray")
    assert not list(tmp_path.iterdir())
    folder = run(installed, tmp_path, "data", "synth", "clips", "--videos", "12").strip()
    assert len(list((tmp_path / folder).rglob("*.mp4"))) == 12
    assert "resnet3d" in run(installed, tmp_path, "models")
    report = [sys.executable, "-m", "advise_ray.jobs.report", "--help"]
    assert b"RUN" in subprocess.check_output(report, cwd=tmp_path, env=environment)


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    """As click's own line in the shell's start-up file asks for it (`jobs/README.md`)."""
    command = [Path(sys.executable).parent / "advise-ray"]
    environment = {"_ADVISE_RAY_COMPLETE": "bash_complete", "COMP_WORDS": "advise-ray ev", "COMP_CWORD": "1"}
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["plain,evaluate"]
