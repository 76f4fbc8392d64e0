"""What the driver sends to each worker. Light to import, since the controller process reads it and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advise_ray.config import Config
from advise_ray.storage.remote import is_url
from advise_ray.training.schedule import Schedule

if TYPE_CHECKING:
    from advise_ray.cache.identity import Identity
    from advise_ray.model.advise import AdViSe


def streams(config: Config) -> bool:
    """Whether clips come by Ray Data; a local feature cache is mapped by the workers themselves."""
    return config.data.features is None or is_url(config.data.features)


@dataclass(frozen=True)
class WorkerSpec:
    """A run as a worker sees it. The model's weights reach Ray's workers through the object store, once a node."""

    config: Config
    schedule: Schedule
    classes: list[str]
    run_dir: Path
    videos: Any
    """ObjectRef of list[Video]; None for a worker in this process."""
    weights: Any
    """ObjectRef of the state dict that the run begins with, likewise."""
    ifm_sha256: str
    manifest_sha256: str
    use_gpu: bool
    cached: Identity | None
    """Of the feature cache that takes the image model's place."""

    def empty_model(self) -> AdViSe:
        """The model, to be filled with `weights`."""
        from advise_ray.model.advise import cached_advise, empty_advise

        if self.cached is None:
            return empty_advise(self.config, len(self.classes))
        return cached_advise(self.config, len(self.classes), self.cached.channels, self.cached.grid)
