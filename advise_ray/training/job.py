"""What the driver sends to each worker. Light to import, since the controller process reads it and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advise_ray.config import Config
from advise_ray.training.schedule import Schedule


@dataclass(frozen=True)
class Job:
    """A run as a worker sees it. The model's weights travel through the object store, once a node."""

    config: Config
    schedule: Schedule
    classes: list[str]
    run_dir: Path
    videos: Any
    """ObjectRef of list[Video]."""
    weights: Any
    """ObjectRef of the state dict that the run begins with."""
    ifm_sha256: str
    manifest_sha256: str
    use_gpu: bool


def run(settings: dict[str, Job]) -> dict[str, Any]:
    """What Ray Train calls on each worker, see `worker.run_worker`."""
    from advise_ray.training.worker import run_worker

    return run_worker(settings["job"])
