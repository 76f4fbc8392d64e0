"""What goes to the cluster with a job: the installed package as its wheel would hold it, and the recipe."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from advise_ray import recipes
from advise_ray.config import Config, to_yaml

RECIPE = "recipe.yaml"
SOURCE_SUFFIXES = (".py", ".typed", ".yaml", ".json")


def pack(folder: Path, config: Config | None) -> int:
    """Fill a folder that Ray makes the working directory of the job and of all of its processes.

    It has the package and its recipes, never the work tree: no data, no checkpoints, no `.git`. Ray's own way for
    wheels (`py_modules`) would install torch and all else anew on each node (ray 2.60, `install_wheel_package` runs
    `pip install --target`).

    Returns:
        Its size in bytes.
    """
    package = Path(__file__).parent.parent
    for path in sorted(package.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES:
            _copy(path, folder / package.name / path.relative_to(package))
    for path in recipes.shipped().values():
        _copy(path, folder / package.name / "jobs" / path.name)
    about = metadata.distribution("advise-ray")
    described = folder / f"advise_ray-{about.version}.dist-info" / "METADATA"
    described.parent.mkdir()
    described.write_text(about.read_text("METADATA") or "")
    if config is not None:
        (folder / RECIPE).write_text(to_yaml(config))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
