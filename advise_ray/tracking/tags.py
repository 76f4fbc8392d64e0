"""The MLflow tags of a run: user, source, versions, commit, description."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from advise_ray.config import Config, Space
from advise_ray.config.search import text_of

VERSIONS_OF = ("advise-ray", "torch", "ray", "mlflow", "timm", "open_clip_torch", "decord2", "av")


VALUES_SHOWN = 8


def tags_of(config: Config) -> dict[str, str]:
    """Tags of a run: user and source, package versions, the working directory's git commit, and the UI description."""
    return {**_here(), "mlflow.note.content": describe(config)}


@functools.cache
def _here() -> Mapping[str, str]:
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": _source(),
        "mlflow.source.type": "LOCAL",
        "version.python": platform.python_version(),
    }
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    tags |= {f"version.{name}": installed[name] for name in VERSIONS_OF if name in installed}
    git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return tags
    dirty = str(commit.endswith("-dirty")).lower()
    return tags | {"mlflow.source.git.commit": commit.removesuffix("-dirty"), "git.dirty": dirty}


def _user() -> str:
    """As MLflow names the user of a run: the user of the tracking server, or else of this machine."""
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container with a user id that has no name
        return f"uid {os.getuid()}"


def _source() -> str:
    """As MLflow names the source of a run: the script that runs; of the commands their name."""
    script = sys.argv[0] if sys.argv else ""
    return script if script.endswith(".py") and Path(script).name != "__main__.py" else "advise-ray"


def describe(config: Config) -> str:
    """One line that describes the run's data and model, or what a sweep searches."""
    what = "playback rates" if config.task == "prp" else "actions"
    data = f"{what} of " + " and ".join(path.name for path in config.data.manifests)
    if config.search:
        searched = ", ".join(f"{key} {_among(space)}" for key, space in config.search.items())
        tuning = config.tune
        best = "highest" if tuning.mode == "max" else "lowest"
        return f"{data}: {tuning.searcher} search of {searched}; the {best} {tuning.judged_by} is best"
    model = config.model
    if model.kind == "r3d50":
        return f"{data}: Slow-R50 3D network, end to end"
    size, tmm = model.sfu.spatial_size, model.tmm
    grid = f"{size}×{size}" if size is not None else "the image model's grid"
    channels = f", {model.sfu.channels} channels" if model.sfu.channels else ""
    begins = f", after {Path(model.init_from).name}" if model.init_from else ""
    return f"{data}: {model.ifm.name}, SFU {grid}{channels}, {tmm.arch} × {tmm.num_blocks}{begins}"


def _among(space: Space) -> str:
    """The values of a space, such as `1, 2, 4`, `0.0001 … 0.01`, or `by model.tmm.arch`."""
    if space.given is not None:
        return f"by {space.given}"
    if space.values is not None:
        listed = [text_of(value).rsplit("/", 1)[-1] for value in space.values[:VALUES_SHOWN]]
        more = ["…"] if len(space.values) > VALUES_SHOWN else []
        return f"({', '.join([*listed, *more])})"
    low, high = (space.uniform or space.loguniform or space.quniform or (0.0, 0.0))[:2]
    return f"({low:g} … {high:g})"
