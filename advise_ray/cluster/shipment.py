"""Builds the files that go to a cluster: the package that its nodes install, and a job's code and recipe."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from advise_ray.backend import packages
from advise_ray.config import Config, recipes, to_yaml

INSTALL = "~/.cache/advise-ray/install"
"""Folder that a cluster file mounts on its nodes. The nodes install from its `requirements.txt`."""
RECIPE = "recipe.yaml"
SOURCE_SUFFIXES = (".py", ".typed", ".yaml", ".json", ".html")


def pack(folder: Path, config: Config | None) -> int:
    """Fill a folder that becomes the working directory of the job and of all of its processes.

    The folder has the package and its recipes, but never other files of the work tree such as data, checkpoints or
    `.git`. Ray's option for wheels (`py_modules`) is not used, because it would install torch and all other
    requirements again on each node (ray 2.60, `install_wheel_package` runs `pip install --target`).

    Returns:
        The size of the folder in bytes.
    """
    package = Path(__file__).parent.parent
    for path in sorted(package.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES:
            _copy(path, folder / package.name / path.relative_to(package))
    for path in recipes.shipped().values():
        _copy(path, folder / package.name / "jobs" / path.name)
    about = metadata.distribution(packages.NAME)
    described = folder / f"advise_ray-{about.version}.dist-info" / "METADATA"
    described.parent.mkdir()
    described.write_text(about.read_text("METADATA") or "", encoding="utf-8")
    if config is not None:
        (folder / RECIPE).write_text(to_yaml(config), encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def install_from(folder: Path) -> None:
    """Fill a folder for `pip install --requirement requirements.txt`, which installs this package as it is here.

    The package does not come from an index, because another package of the same name could run on the cluster then. Its
    requirements come from an index, at the versions that are installed here. The same package always gives the same
    bytes, because the launcher sets a node up again and restarts its Ray if a mounted file has changed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as filling:
        new = Path(filling) / folder.name
        new.mkdir()
        wheel = _wheel(new)
        (new / "constraints.txt").write_text("".join(f"{line}\n" for line in packages.constraints()), encoding="utf-8")
        (new / "requirements.txt").write_text(f"--constraint constraints.txt\n./{wheel.name}\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _wheel(folder: Path) -> Path:
    """Build a wheel of the installed package: the files of `pack`, and the `advise-ray` command."""
    about = metadata.distribution(packages.NAME)
    name = f"advise_ray-{about.version}"
    with tempfile.TemporaryDirectory() as unpacked:
        root = Path(unpacked)
        pack(root, None)
        described = root / f"{name}.dist-info"
        tags = {"Wheel-Version": "1.0", "Generator": packages.NAME, "Root-Is-Purelib": "true", "Tag": "py3-none-any"}
        (described / "WHEEL").write_text("".join(f"{tag}: {value}\n" for tag, value in tags.items()), encoding="utf-8")
        (described / "entry_points.txt").write_text(about.read_text("entry_points.txt") or "", encoding="utf-8")
        files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }
        record = f"{name}.dist-info/RECORD"
        rows = [f"{file},sha256={_digest(content)},{len(content)}\n" for file, content in files.items()]
        files[record] = "".join([*rows, f"{record},,\n"]).encode()
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(file), content, zipfile.ZIP_DEFLATED)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
