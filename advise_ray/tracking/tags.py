"""The MLflow tags of a run: user, versions, commit, description."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from advise_ray.config import Config

VERSIONS_OF = ("advise-ray", "torch", "ray", "mlflow", "timm", "open_clip_torch", "decord2", "av")


def tags_of(config: Config) -> dict[str, str]:
    """Tags of a run: the user, package versions, the working directory's git commit, and the UI description."""
    return {**_here(), "mlflow.source.name": "advise-ray", "mlflow.note.content": describe(config)}


@functools.cache
def _here() -> Mapping[str, str]:
    tags = {"version.python": platform.python_version()}
    if user := os.environ.get("USER"):
        tags["mlflow.user"] = user
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    tags |= {f"version.{name}": installed[name] for name in VERSIONS_OF if name in installed}
    git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return tags
    dirty = str(commit.endswith("-dirty")).lower()
    return tags | {"mlflow.source.git.commit": commit.removesuffix("-dirty"), "git.dirty": dirty}


def describe(config: Config) -> str:
    """One line that describes the run's data and model."""
    what = "playback rates" if config.task == "prp" else "actions"
    data = f"{what} of " + " and ".join(path.name for path in config.data.manifests)
    model = config.model
    if model.kind == "r3d50":
        return f"{data}: Slow-R50 3D network, end to end"
    grid, tmm = model.sfu.spatial_size, model.tmm
    channels = f", {model.sfu.channels} channels" if model.sfu.channels else ""
    begins = f", after {Path(model.init_from).name}" if model.init_from else ""
    return f"{data}: {model.ifm.name}, SFU {grid}×{grid}{channels}, {tmm.arch} × {tmm.num_blocks}{begins}"
